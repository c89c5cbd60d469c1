"""Every student with what it saw, what it was measured at, and what was decided about it."""

import json
from typing import Any

from storage.lake import Lake
from storage.promotions import decisions

STUDENTS = 100


def students(lake: Lake, *, limit: int = STUDENTS) -> list[dict[str, Any]]:
    """The newest students, the oldest of them first; `settings` and `metrics` decoded, `decision` in words or empty.

    `recipe_ids`, `filter`, `weight` and the counts are None where the lake does not know the student's row set.
    """
    rows = lake.sql(
        """
        SELECT
            s.student_id, s.parent_id, s.row_set_id, s.run_id, s.created_at, s.settings, s.metrics, r.recipe_ids,
            r.up_to_commit, r.filter, r.weight, r.n_sequences, r.n_tokens, r.n_targets
        FROM students AS s LEFT JOIN row_sets AS r USING (row_set_id)
        ORDER BY s.created_at DESC, s.student_id LIMIT $limit
        """,
        {"limit": limit},
    ).to_pylist()
    decided = decisions(lake)
    return [
        {
            **row,
            "settings": json.loads(row["settings"]),
            "metrics": json.loads(row["metrics"]),
            "decision": decided.get(row["student_id"], ""),
        }
        for row in reversed(rows)
    ]
