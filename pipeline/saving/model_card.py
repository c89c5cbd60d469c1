"""The model card of a student: where it comes from, how good it is, which rows it saw, and how to use it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.saving.card_metadata import front_matter
from logitlake.pipeline.students.identity import FACTS_FILE, read_facts
from logitlake.storage.identity import FACTS
from logitlake.storage.json_text import finite

_CARD = """---
{front_matter}---

# Student {student_id}

A language model trained by [logitlake](https://pypi.org/project/logitlake/) from cached next-token targets of a
teacher, {teacher}, which was not loaded for it.

## Use

```python
{snippet}
```

## On held-out documents

{held_out}

## Lineage

{lineage}

The same rows can be read again as long as the lake exists, less what was forgotten since: the content hash tells.

## Training

{training}

The loss is in nats, a mean over targets. The same facts for programs are in `{facts_file}`.

```json
{settings}
```
"""
_SNIPPET = """from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # where this card lies, or the id of the model on a hub
tokenizer = AutoTokenizer.from_pretrained(directory{trust})
model = AutoModelForCausalLM.from_pretrained(directory{trust})
{inputs}
output = model.generate(**inputs, max_new_tokens=20)
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
_TEXT = 'inputs = tokenizer("The weather today is", return_tensors="pt", return_token_type_ids=False)'
_CHAT = """messages = [{"role": "user", "content": "How is the weather?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""
_MEASURES = {
    "KL from the teacher (nats)": "kl",
    "standard error of the KL": "kl_stderr",
    "cross-entropy (nats)": "cross_entropy",
    "agreement with the teacher's likeliest token": "top1_agreement",
    "expected calibration error": "calibration_error",
    "targets": "n_targets",
}
_MODELS = {"this student": "after", "before training": "before", "teacher": "teacher"}


def write_card(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write logitlake.json and README.md, each in one step; both say the same."""
    text = json.dumps(finite(facts), indent=2, sort_keys=True, default=str, allow_nan=False)
    _write(directory / FACTS_FILE, text + "\n")
    _write(directory / "README.md", render_card(facts))


def add_evaluation(directory: Path, metrics: Mapping[str, Any]) -> None:
    """Write a student's card again with its metrics on held-out documents.

    `metrics` has `before`, `after` and `teacher` (see Metrics), and `held_out`: the row set, and whether KL is exact.
    """
    facts = read_facts(directory)
    names = ("held_out", *_MODELS.values())
    write_card(directory, {**facts, "evaluation": {name: metrics[name] for name in names if name in metrics}})


def render_card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    return _CARD.format(
        front_matter=front_matter(facts),
        student_id=facts["student_id"][:12],
        teacher=facts["recipe"]["teacher"]["name"],
        snippet=snippet(facts),
        held_out=_held_out(facts),
        lineage=_table(("", ""), _lineage(facts)),
        settings=json.dumps(facts["settings"], indent=2, sort_keys=True, default=str),
        training=_table(("", ""), finite(facts["metrics"]).items()) if facts["metrics"] else "Nothing was recorded.",
        facts_file=FACTS_FILE,
    )


def snippet(facts: Mapping[str, Any]) -> str:
    """Python that loads the student and lets it write, started in the student's directory."""
    trusted = facts["settings"].get("student", {}).get("trust_remote_code")
    is_chat = (facts["recipe"].get("chat") or {}).get("template") is not None
    return _SNIPPET.format(trust=", trust_remote_code=True" if trusted else "", inputs=_CHAT if is_chat else _TEXT)


def _held_out(facts: Mapping[str, Any]) -> str:
    evaluation = finite(facts.get("evaluation") or {})
    if not evaluation.get("after"):
        return "Not measured: `logitlake evaluate` measures it."
    rows = [
        (name, *(evaluation.get(model, {}).get(key) for model in _MODELS.values())) for name, key in _MEASURES.items()
    ]
    held = evaluation.get("held_out", {})
    source = "from the teacher itself" if held.get("exact") else "estimated from the cache"
    return (
        f"{_table(('', *_MODELS), rows)}\n\nMeans over targets of documents that no student is trained on (row set "
        f"{held.get('row_set_id', 'not known')}). KL is {source}. The weights are those in this directory."
    )


def _lineage(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows, teacher = facts["row_set"], facts["recipe"]["teacher"]
    origin = facts["recipe"].get(FACTS, {}).get("teacher", {})
    parent, saved = facts.get("origin") or {}, facts.get("saved") or {}
    return [
        ("student id", facts["student_id"]),
        ("dtype of the weights", saved.get("dtype", "not recorded")),
        ("KL by rounding to it", saved.get("rounding_kl", "not recorded")),
        ("parent id", facts["parent_id"]),
        ("parent", facts["parent"]),
        ("parent's licence", parent.get("licence", "not known")),
        ("teacher", f"{teacher['name']}, weights {teacher['weights']}"),
        ("teacher's name", origin.get("model", "not recorded")),
        ("teacher's revision", origin.get("revision", "not known")),
        ("teacher's licence", origin.get("licence", "not known")),
        ("adapter of the teacher", teacher["adapter"] or "none"),
        ("recipes", ", ".join(rows["recipe_ids"])),
        ("row set", rows["row_set_id"]),
        ("commit number, up to", rows["up_to_commit"]),
        ("filter", rows["where"] or "none"),
        ("sampling weight", rows["weight"] or "none"),
        ("held-out documents", "excluded"),
        ("content hash of the rows", rows["content_hash"]),
        ("sequences / tokens / targets", f"{rows['n_sequences']} / {rows['n_tokens']} / {rows['n_targets']}"),
    ]


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _write(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)
