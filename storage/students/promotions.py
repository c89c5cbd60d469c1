"""Aliases of students: which one is `current`, promotion, rejection and rollback.

A decision is one new row in one transaction, so an alias changes completely or not at all, and its history stays.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.errors import LakeBusyError, LakeError
from logitlake.storage.json_text import json_text
from logitlake.storage.lake.lake import Lake, Transaction

CURRENT = "current"


def student_of(lake: Lake, alias: str = CURRENT) -> str | None:
    """Id of the student that an alias points to; None before the first promotion."""
    row = lake.row("SELECT student_id FROM aliases WHERE alias = ?", [alias])
    return str(row["student_id"]) if row else None


def decisions(lake: Lake) -> dict[str, str]:
    """What was decided about each student last, in words such as `promoted (current)`."""
    rows = lake.sql("SELECT student_id, decision, alias FROM promotions ORDER BY commit_number").to_pylist()
    return {row["student_id"]: f"{row['decision']} ({row['alias']})" for row in rows}


def promote(
    lake: Lake, student_id: str, *, expected: str | None, figures: Mapping[str, Any], run_id: str, alias: str = CURRENT
) -> None:
    """Point `alias` at a student, if it still points to `expected`. Promoted already: nothing to do.

    Raises LakeBusyError if somebody else changed the alias since the candidate was compared.
    """
    if student_of(lake, alias) == student_id:
        return
    with lake.transaction() as transaction:
        now = student_of(lake, alias)
        if now != expected:
            raise LakeBusyError(
                f"alias {alias}: expected {expected}, found {now}: compare the candidate with that student, try again"
            )
        _decide(transaction, alias, student_id, "promoted", figures, run_id)


def reject(lake: Lake, student_id: str, *, figures: Mapping[str, Any], run_id: str, alias: str = CURRENT) -> None:
    """Record that a candidate was compared and not promoted, with its figures. Idempotent."""
    decided = lake.row(
        "SELECT 1 AS present FROM promotions WHERE alias = ? AND student_id = ? AND decision = 'rejected'",
        [alias, student_id],
    )
    if not decided:
        with lake.transaction() as transaction:
            _decide(transaction, alias, student_id, "rejected", figures, run_id)


def roll_back(lake: Lake, *, expected: str | None, run_id: str, alias: str = CURRENT) -> str:
    """Point an alias at the student before `expected`, to which it points now; returns that student's id.

    Rolled back from `expected` already: nothing to do, so that the call can be repeated after a lost answer. Raises
    LakeBusyError if the alias points to another student, LakeError if there is no student before.
    """
    line, left = _line(lake, alias)
    if line and left is not None and left == expected:
        return line[-1]
    with lake.transaction() as transaction:
        line, _ = _line(lake, alias)
        if line and line[-1] != expected:
            raise LakeBusyError(
                f"alias {alias}: expected {expected}, found {line[-1]}: check the alias before rolling back"
            )
        if len(line) < 2:
            raise LakeError(f"alias {alias}: there is no student before this one to roll back to")
        _decide(transaction, alias, line[-2], "rolled back", {"from": line[-1]}, run_id)
    return line[-2]


def _line(lake: Lake, alias: str) -> tuple[list[str], str | None]:
    """The students that an alias can be rolled back through, its current one last; and, if the last decision was a
    rollback, the student that it rolled back from."""
    rows = lake.sql(
        """
        SELECT student_id, decision FROM promotions
        WHERE alias = ? AND decision <> 'rejected' ORDER BY commit_number
        """,
        [alias],
    ).to_pylist()
    line: list[str] = []
    left = None
    for row in rows:
        back = row["decision"] == "rolled back"
        left = line[-1] if back else None
        line = line[:-1] if back else [*line, row["student_id"]]
    return line, left


def _decide(
    transaction: Transaction, alias: str, student_id: str, decision: str, figures: Mapping[str, Any], run_id: str
) -> None:
    row = {
        "commit_number": transaction.number,
        "alias": alias,
        "student_id": student_id,
        "decision": decision,
        "figures": json_text(dict(figures)),
        "run_id": run_id,
        "decided_at": datetime.now(UTC),
    }
    transaction.insert("promotions", pa.Table.from_pylist([row]))
