"""The front matter of a student's card, in the form that the Hugging Face hub reads."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from logitlake.pipeline.model_files.origin import find_origin
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.storage.identity import FACTS
from logitlake.storage.json_text import finite

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Licences that the hub names by themselves; any other is `other` with a name.
_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 grok2-community gemma unknown
"""
# The hub's name of a measure, its name for people, and ours.
_MEASURES = (
    ("kl_divergence", "KL from the teacher (nats)", "kl"),
    ("top1_agreement", "Agreement with the teacher's likeliest token", "top1_agreement"),
    ("cross_entropy", "Cross-entropy (nats)", "cross_entropy"),
    ("expected_calibration_error", "Expected calibration error", "calibration_error"),
)


def find_parent_origin(settings: StudentSettings, parent: Parent, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Where the weights of a student come from: name, revision, licence and base models, as far as known.

    Those of the teacher are in the recipe; a checkpoint's card says its own. Weights from a config come from nowhere.
    """
    if settings.source == "teacher":
        return dict(recipe.get(FACTS, {}).get("teacher", {}))
    if settings.source == "config" or parent.directory is None or settings.model is None:
        return {}
    return find_origin(settings.model, settings.revision, parent.directory).to_dict()


def front_matter(facts: Mapping[str, Any]) -> str:
    """YAML without its fences: what huggingface_hub's ModelCard reads."""
    origin = facts.get("origin") or {}
    licence, licence_name = _licence(origin.get("licence"))
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "logitlake"],
        base_model=_base_models(origin),
        model_name=f"student {facts['student_id'][:12]}",
        eval_results=_results(facts),
        license=licence,
        license_name=licence_name,
    )
    return f"{data.to_yaml()}\n"


def _base_models(origin: Mapping[str, Any]) -> list[str] | None:
    """Ids on the hub: the parent's own, else those that the parent's card names. A path is no id."""
    name = str(origin.get("model", ""))
    if _HUB_ID.fullmatch(name) and not Path(name).expanduser().exists():
        return [name]
    return [base for base in origin.get("base_models", ()) if _HUB_ID.fullmatch(base)] or None


def _licence(licence: str | None) -> tuple[str | None, str | None]:
    """The licence as the hub names it, and the name of one that the hub does not know."""
    return (licence, None) if not licence or licence in _LICENCES.split() else ("other", licence)


def _results(facts: Mapping[str, Any]) -> list[EvalResult] | None:
    evaluation = finite(facts.get("evaluation") or {})
    measured, held = evaluation.get("after") or {}, evaluation.get("held_out") or {}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="logitlake",
            dataset_name=f"held-out documents of recipe {facts['row_set']['recipe_ids'][0][:12]}",
            dataset_revision=held.get("row_set_id"),
            metric_type=kind,
            metric_name=name,
            metric_value=measured[key],
        )
        for kind, name, key in _MEASURES
        if measured.get(key) is not None
    ] or None
