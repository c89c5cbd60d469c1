"""Every student with its row set, its metrics and the decisions about it."""

import json
from typing import Any

from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import decisions

STUDENTS = 100
_LEAST_TARGETS = 64


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


def hardest_documents(lake: Lake, *, students: int = 3, documents: int = 6) -> list[dict[str, Any]]:
    """Where the newest students are furthest behind the teacher: losses and `gap` in nats per target, by document.

    Short documents are left out unless there are no others: their mean is mostly noise.
    """
    rows: list[dict[str, Any]] = lake.sql(
        """
        WITH measured AS (
            SELECT l.*, s.created_at FROM student_losses AS l JOIN students AS s USING (student_id)
            QUALIFY dense_rank() OVER (ORDER BY s.created_at DESC, student_id) <= $students
        )
        SELECT m.student_id, m.recipe_id, o.corpus, o.source, m.n_targets, m.student_loss, m.teacher_loss, m.gap
        FROM measured AS m
        LEFT JOIN (
            SELECT doc_id, min(corpus) AS corpus, min(source) AS source FROM sources GROUP BY doc_id
        ) AS o USING (doc_id)
        QUALIFY row_number() OVER (
            PARTITION BY m.student_id, m.recipe_id ORDER BY m.n_targets >= $least DESC, m.gap DESC, m.doc_id
        ) <= $documents
        ORDER BY m.created_at DESC, m.student_id, m.recipe_id, m.gap DESC
        """,
        {"students": students, "documents": documents, "least": _LEAST_TARGETS},
    ).to_pylist()
    return rows
