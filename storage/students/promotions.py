"""Named students: which one is `current`, which candidates were turned down, and the way back.

A decision is one appended row in one transaction, so an alias changes at once or not at all, and its history stays.
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
    """Id of the student that an alias stands for; None before the first promotion."""
    found = lake.row("SELECT student_id FROM aliases WHERE alias = ?", [alias])
    return str(found["student_id"]) if found else None


def decisions(lake: Lake) -> dict[str, str]:
    """What was decided about each student last, in words such as `promoted (current)`."""
    rows = lake.sql("SELECT student_id, decision, alias FROM promotions ORDER BY commit_number").to_pylist()
    return {row["student_id"]: f"{row['decision']} ({row['alias']})" for row in rows}


def promote(
    lake: Lake, student_id: str, *, expected: str | None, figures: Mapping[str, Any], run_id: str, alias: str = CURRENT
) -> None:
    """Let `alias` stand for a student from now on, if it still stands for `expected`. Promoted already: nothing to do.

    Raises LakeBusyError if somebody else changed the alias since the candidate was compared.
    """
    if student_of(lake, alias) == student_id:
        return
    with lake.transaction() as transaction:
        now = student_of(lake, alias)
        if now != expected:
            raise LakeBusyError(f"alias {alias}: expected {expected}, found {now}: compare with that one and try again")
        _decide(transaction, alias, student_id, "promoted", figures, run_id)


def reject(lake: Lake, student_id: str, *, figures: Mapping[str, Any], run_id: str, alias: str = CURRENT) -> None:
    """Record that a candidate was compared and not promoted, with its figures. Idempotent."""
    known = lake.row(
        "SELECT 1 AS found FROM promotions WHERE alias = ? AND student_id = ? AND decision = 'rejected'",
        [alias, student_id],
    )
    if not known:
        with lake.transaction() as transaction:
            _decide(transaction, alias, student_id, "rejected", figures, run_id)


def roll_back(lake: Lake, *, expected: str | None, run_id: str, alias: str = CURRENT) -> str:
    """Let an alias stand for the student before `expected`, which it stands for now; returns that student's id.

    Rolled back from `expected` already: nothing to do, so that a lost answer may be asked for again. Raises
    LakeBusyError if the alias stands for another student, LakeError if there is none to go back to.
    """
    line, left = _line(lake, alias)
    if line and left is not None and left == expected:
        return line[-1]
    with lake.transaction() as transaction:
        line, _ = _line(lake, alias)
        if line and line[-1] != expected:
            raise LakeBusyError(
                f"alias {alias}: expected {expected}, found {line[-1]}: look again before going back from it"
            )
        if len(line) < 2:
            raise LakeError(f"alias {alias}: there is no student before this one to roll back to")
        _decide(transaction, alias, line[-2], "rolled back", {"from": line[-1]}, run_id)
    return line[-2]


def _line(lake: Lake, alias: str) -> tuple[list[str], str | None]:
    """The students that an alias can go back through, the last is its own, and the one that it has just left, if so."""
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
