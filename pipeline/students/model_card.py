"""The model card of a student: where it comes from, which rows it saw, and how to get them again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.students.identity import FACTS_FILE
from logitlake.storage.identity import FACTS
from logitlake.storage.json_text import finite

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- distillation
- logitlake
---

# Student {student_id}

Trained by [logitlake](https://pypi.org/project/logitlake/) from cached next-token targets of a teacher, which was not
loaded for it.

## Lineage

{lineage}

The same rows can be read again as long as the lake exists, less what was forgotten since: the content hash tells.

## Settings

```json
{settings}
```

## Metrics

{metrics}

All losses are in nats, means over targets. The same facts for programs are in `{facts_file}`.
"""


def write_card(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write README.md and logitlake.json; both say the same."""
    text = json.dumps(finite(facts), indent=2, sort_keys=True, default=str, allow_nan=False)
    (directory / FACTS_FILE).write_text(text + "\n", encoding="utf-8")
    (directory / "README.md").write_text(render_card(facts), encoding="utf-8")


def render_card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    return _CARD.format(
        student_id=facts["student_id"][:12],
        lineage=_table(_lineage(facts)),
        settings=json.dumps(facts["settings"], indent=2, sort_keys=True, default=str),
        metrics=_table(facts["metrics"].items()) if facts["metrics"] else "None were taken.",
        facts_file=FACTS_FILE,
    )


def _lineage(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows, teacher = facts["row_set"], facts["recipe"]["teacher"]
    origin = facts["recipe"].get(FACTS, {}).get("teacher", {})
    return [
        ("student id", facts["student_id"]),
        ("parent id", facts["parent_id"]),
        ("parent", facts["parent"]),
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


def _table(rows: Any) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
