"""Students and their lineage: registration and look-up."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.connection.object_store import write_note
from logitlake.storage.errors import LakeError
from logitlake.storage.json_text import json_text
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import student_of


def register_student(
    lake: Lake,
    *,
    student_id: str,
    parent_id: str,
    row_set_id: str,
    run_id: str,
    directory: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Register a trained student and its lineage. The last registration of a student is the one that views show."""
    texts = {"settings": json_text(settings), "metrics": json_text(metrics)}
    ids = {"student_id": student_id, "parent_id": parent_id, "row_set_id": row_set_id, "directory": directory}
    write_note(
        lake.location,
        f"students/{student_id}.json",
        {**ids, **{name: json.loads(text) for name, text in texts.items()}},
    )
    row = {**ids, **texts, "run_id": run_id, "created_at": datetime.now(UTC)}
    lake.change(lambda transaction: transaction.insert("students", pa.Table.from_pylist([row])))


def find_student(lake: Lake, prefix: str) -> dict[str, Any]:
    """The student whose id starts with `prefix`, settings and metrics decoded; empty if there is none."""
    row = lake.row("SELECT * FROM students WHERE starts_with(student_id, ?) ORDER BY created_at DESC", [prefix])
    return row and {**row, "settings": json.loads(row["settings"]), "metrics": json.loads(row["metrics"])}


def named_student(lake: Lake, name: str) -> dict[str, Any]:
    """A student by its alias, its id, or the beginning of its id. Raises LakeError unless exactly one matches."""
    named = student_of(lake, name) or name
    matches = lake.sql("SELECT student_id FROM students WHERE starts_with(student_id, ?) ORDER BY created_at", [named])
    ids = matches["student_id"].to_pylist()
    if not ids or not named:
        raise LakeError(f"no student and no alias {name!r} in this lake; `logitlake show students` lists them")
    if len(ids) > 1:
        raise LakeError(f"{name!r} matches {len(ids)} students: {', '.join(ids[:5])}; give more of the id")
    return find_student(lake, ids[0])
