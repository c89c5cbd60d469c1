"""What earlier captures took, for an estimate of the next: how fast a teacher was, how many bytes a token became."""

from storage.lake import Lake


def teacher_speed(lake: Lake, weights: str) -> tuple[float, int] | None:
    """Tokens per second over every commit of the teacher with these weights, and how many runs they come from.

    None if this lake has never timed that teacher.
    """
    found = lake.row(
        """
        SELECT sum(c.n_tokens) / nullif(sum(c.seconds), 0) AS speed, count(DISTINCT c.run_id) AS n_runs
        FROM commits AS c JOIN recipes AS r USING (recipe_id)
        WHERE r.recipe ->> '$.teacher.weights' = ? AND c.seconds > 0
        """,
        [weights],
    )
    return (float(found["speed"]), int(found["n_runs"])) if found.get("speed") else None


def stored_bytes_per_token(lake: Lake, recipe_id: str) -> tuple[float, int] | None:
    """Bytes on disk per token of this recipe, and how many tokens that is over; None if nothing of it is stored."""
    found = lake.row(
        "SELECT sum(n_bytes)::DOUBLE AS n_bytes, sum(n_tokens)::BIGINT AS n_tokens FROM commits WHERE recipe_id = ?",
        [recipe_id],
    )
    return (found["n_bytes"] / found["n_tokens"], int(found["n_tokens"])) if found.get("n_tokens") else None


def captured_tokens(lake: Lake, recipe_id: str) -> int:
    """How many tokens of this recipe the lake holds."""
    found = lake.row("SELECT sum(n_tokens)::BIGINT AS n_tokens FROM commits WHERE recipe_id = ?", [recipe_id])
    return int(found["n_tokens"] or 0)
