"""Runs and their events."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.errors import LakeError
from logitlake.storage.json_text import json_text
from logitlake.storage.lake.lake import Lake
from logitlake.storage.redaction import without_secrets

# The kind of the run that notes that a recipe was retired.
RETIRE_KIND = "retire"


def note_run(lake: Lake, run_id: str, event: str, *, kind: str, recipe_id: str | None, **detail: Any) -> None:
    """Record an event of a run: started, finished, failed, interrupted."""
    row = {
        "run_id": run_id,
        "event": event,
        "happened_at": datetime.now(UTC),
        "kind": kind,
        "recipe_id": recipe_id,
        # An error may quote the settings.
        "detail": json_text(
            {name: without_secrets(value) if isinstance(value, str) else value for name, value in detail.items()}
        ),
    }
    lake.change(lambda transaction: transaction.insert("run_events", pa.Table.from_pylist([row])))


def find_run(lake: Lake, beginning: str) -> dict[str, Any]:
    """The run whose id starts with `beginning`; the newest run for `last`. Raises LakeError naming the candidates.

    `detail` is the decoded detail of its last event, and `started` that of its start.
    """
    rows = lake.sql(
        """
        SELECT
            run_id, kind, recipe_id, status, started_at, ended_at, n_documents, n_tokens::BIGINT AS n_tokens,
            n_bytes::BIGINT AS n_bytes, teacher_seconds, tokens_per_second, first_commit, last_commit, detail,
            (SELECT max(detail) FROM store.run_events AS e WHERE (e.run_id, e.event) = (runs.run_id, 'started'))
                AS started
        FROM runs WHERE starts_with(run_id, ?) ORDER BY started_at DESC
        """,
        ["" if beginning == "last" else beginning],
    ).to_pylist()
    if beginning == "last":
        rows = rows[:1]
    if len(rows) != 1:
        have = ", ".join(row["run_id"] for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise LakeError(
            f"expected one run {beginning!r}, found {have or 'none'}: give more of its id (`logitlake show runs`)"
        )
    run = rows[0]
    return {**run, "detail": json.loads(run["detail"]), "started": json.loads(run["started"] or "{}")}
