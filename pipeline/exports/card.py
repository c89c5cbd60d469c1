"""README.md of an exported data set: front matter for the Hub and `datasets`, and text for people."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from logitlake.pipeline.exports.export_format import ExportContext, ExportFormat
from logitlake.storage.row_sets.export import NOTE
from logitlake.storage.target_facts import target_facts

_TEXT = """---
{front_matter}
---

<!-- Before you publish it: add `license:` above. It must allow for the texts and for the outputs of the teacher. -->

# Cached next-token targets of a teacher

{n_sequences:,} sequences, {n_tokens:,} tokens, {n_targets:,} targets. {teacher}Exported from a
logitlake lake: row set `{row_set_id}`, content hash `{content_hash}`. `{lineage}` has the recipes and the
rule that chose the rows.

- Tokenizer fingerprint: `{tokenizer}`. A student must have the same tokenizer.
- Temperature of the targets: {temperature:g}.
- {bias}

{notes}"""
_UNBIASED = (
    "Unbiased: the expectation of every probability is the teacher's. Ids that are missing at a position were not "
    "drawn there; do not renormalise the student over the ids that are present."
)
_CUT = (
    "Biased: ids that are missing lose their mass. Where the probabilities of a position sum below 1, the rest is what "
    "was cut off."
)
_UNKNOWN = "Whether the targets are biased is not known."


def card(note: Mapping[str, Any], kind: ExportFormat, context: ExportContext, schema: pa.Schema) -> str:
    """The text of the card. `note` is the lineage of the rows."""
    data = DatasetCardData(
        tags=["knowledge-distillation", "logitlake"],
        task_categories=["text-generation"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": context.split, "path": f"data/{context.split}-*.parquet"}],
            }
        ],
    )
    DatasetInfosDict({"default": DatasetInfo(features=Features.from_arrow_schema(schema))}).to_dataset_card_data(data)
    teacher = context.recipe.get("teacher", {}).get("name")
    return _TEXT.format(
        front_matter=data.to_yaml(),
        **{name: note[name] for name in ("n_sequences", "n_tokens", "n_targets", "row_set_id", "content_hash")},
        teacher=f"Teacher: {teacher}. " if teacher else "",
        lineage=NOTE,
        tokenizer=context.recipe["tokenizer"],
        temperature=context.recipe["temperature"],
        bias=_bias(note["recipes"].values()),
        notes=kind.notes,
    )


def _bias(recipes: Any) -> str:
    facts = [target_facts(recipe) for recipe in recipes]
    if any(not of_recipe for of_recipe in facts):
        return _UNKNOWN
    return _UNBIASED if all(of_recipe["unbiased"] for of_recipe in facts) else _CUT
