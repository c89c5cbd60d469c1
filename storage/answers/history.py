"""Speed and size of earlier captures, for an estimate of the next one."""

from typing import Any

from logitlake.storage.lake.lake import Lake


def teacher_speed(lake: Lake, weights: str) -> tuple[float, int] | None:
    """Tokens per second over every commit of the teacher with these weights, and how many runs they come from.

    None if this lake has no timing of that teacher.
    """
    row = lake.row(
        """
        SELECT sum(c.n_tokens) / nullif(sum(c.seconds), 0) AS speed, count(DISTINCT c.run_id) AS n_runs
        FROM commits AS c JOIN recipes AS r USING (recipe_id)
        WHERE r.recipe ->> '$.teacher.weights' = ? AND c.seconds > 0
        """,
        [weights],
    )
    return (float(row["speed"]), int(row["n_runs"])) if row.get("speed") else None


def writer_speed(lake: Lake, sampling_id: str) -> float | None:
    """Tokens per second that a writer wrote over all earlier runs with this sampling; None if there is none."""
    row = lake.row(
        """
        SELECT sum((detail ->> '$.report.n_tokens')::BIGINT)
            / nullif(sum((detail ->> '$.report.writer_seconds')::DOUBLE), 0) AS speed
        FROM runs WHERE kind = 'generate' AND (detail ->> '$.report.sampling_id') = ?
        """,
        [sampling_id],
    )
    return row.get("speed") or None


def stored_bytes_per_token(lake: Lake, recipe_id: str) -> tuple[float, int] | None:
    """Bytes on disk per token of this recipe, and how many tokens that is over; None if nothing of it is stored."""
    row = lake.row(
        "SELECT sum(n_bytes)::DOUBLE AS n_bytes, sum(n_tokens)::BIGINT AS n_tokens FROM commits WHERE recipe_id = ?",
        [recipe_id],
    )
    return (row["n_bytes"] / row["n_tokens"], int(row["n_tokens"])) if row.get("n_tokens") else None


def earlier_estimates(lake: Lake, *, limit: int = 10) -> list[dict[str, Any]]:
    """Time and bytes of captures divided by what was expected when they started, the newest first.

    A row has the two ratios, and `time_from` and `bytes_from`: where the expectation came from. Runs that computed
    nothing, or recorded no expectation, are left out.
    """
    rows: list[dict[str, Any]] = lake.sql(
        f"""
        SELECT
            run_id, n_tokens, expected ->> '$.tokens_per_second_from' AS time_from,
            seconds * (expected ->> '$.tokens_per_second')::DOUBLE / n_tokens AS time_ratio,
            expected ->> '$.bytes_per_token_from' AS bytes_from,
            n_bytes / (n_tokens * (expected ->> '$.bytes_per_token')::DOUBLE) AS bytes_ratio
        FROM (
            SELECT run_id, max(happened_at) AS started_at, max(detail -> '$.expected') AS expected
            FROM store.run_events WHERE kind = 'capture' AND event = 'started' GROUP BY run_id
        )
        JOIN (
            SELECT run_id, n_tokens::BIGINT AS n_tokens, n_bytes::DOUBLE AS n_bytes, teacher_seconds AS seconds
            FROM runs
        ) USING (run_id)
        WHERE expected IS NOT NULL AND seconds > 0 AND n_tokens > 0
        ORDER BY started_at DESC LIMIT {int(limit)}
        """
    ).to_pylist()
    return rows


def captured_tokens(lake: Lake, recipe_id: str) -> int:
    """How many tokens of this recipe the lake holds."""
    row = lake.row("SELECT sum(n_tokens)::BIGINT AS n_tokens FROM commits WHERE recipe_id = ?", [recipe_id])
    return int(row["n_tokens"] or 0)
