"""One recipe, one run, one student: what the lake knows about it."""

import json
from typing import Any

from logitlake.storage.answers.listings import ancestry
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake


def recipe_facts(lake: Lake, recipe_id: str) -> dict[str, Any]:
    """`holds`: its counts and what they take; `captures`: the runs that made it; `students`: who learned from it."""
    holds = lake.row(
        """
        SELECT
            count(*) AS documents, count(*) FILTER (held_out) AS held_out_documents,
            coalesce(sum(n_sequences), 0)::BIGINT AS sequences, coalesce(sum(n_tokens), 0)::BIGINT AS tokens
        FROM documents WHERE recipe_id = ?
        """,
        [recipe_id],
    )
    commits = lake.row(
        """
        SELECT
            count(*) AS commits, sum(n_targets)::BIGINT AS targets, sum(n_bytes)::BIGINT AS n_bytes,
            sum(n_bytes) / nullif(sum(n_tokens), 0) AS bytes_per_token,
            sum(seconds) / 3600 AS teacher_hours, sum(n_tokens) / nullif(sum(seconds), 0) AS tokens_per_second,
            min(committed_at) AS first_commit_at, max(committed_at) AS last_commit_at
        FROM commits WHERE recipe_id = ?
        """,
        [recipe_id],
    )
    captures = lake.sql(
        """
        SELECT run_id, status, started_at, n_documents, n_tokens::BIGINT AS n_tokens, tokens_per_second
        FROM runs WHERE recipe_id = ? AND kind = 'capture' ORDER BY started_at DESC LIMIT 5
        """,
        [recipe_id],
    )
    students = lake.sql(
        """
        SELECT student_id, s.created_at, n_sequences, up_to_commit, filter
        FROM students AS s JOIN row_sets AS r USING (row_set_id)
        WHERE list_contains(recipe_ids, ?) ORDER BY s.created_at DESC LIMIT 5
        """,
        [recipe_id],
    )
    return {"holds": {**holds, **commits}, "captures": captures.to_pylist(), "students": students.to_pylist()}


def find_run(lake: Lake, beginning: str) -> dict[str, Any]:
    """The run whose id starts so, the newest for `last`. Raises LakeError naming the candidates.

    `detail` is what its last event said and `started` what its first one did, decoded.
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


def student_facts(lake: Lake, student_id: str) -> dict[str, Any]:
    """`row_set`: what it was trained on; `aliases` and `decisions` about it; `lineage`; `children`."""
    row_set = lake.row(
        """
        SELECT row_set_id, recipe_ids, up_to_commit, filter, weight, n_sequences, n_tokens, n_targets, content_hash
        FROM row_sets WHERE row_set_id = (SELECT row_set_id FROM students WHERE student_id = ?)
        """,
        [student_id],
    )
    aliases = lake.sql("SELECT alias FROM aliases WHERE student_id = ? ORDER BY alias", [student_id])
    decisions = lake.sql(
        """
        SELECT decided_at, decision, alias, figures ->> '$.reason' AS reason
        FROM promotions WHERE student_id = ? ORDER BY commit_number
        """,
        [student_id],
    )
    children = lake.sql("SELECT student_id FROM students WHERE parent_id = ? ORDER BY created_at", [student_id])
    return {
        "row_set": row_set,
        "aliases": aliases["alias"].to_pylist(),
        "decisions": decisions.to_pylist(),
        "lineage": ancestry(lake, student_id).to_pylist(),
        "children": children["student_id"].to_pylist(),
    }
