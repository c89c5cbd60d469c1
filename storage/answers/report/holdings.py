"""What is in the lake, how it grew, and what it took: exact figures, from whole rows and commits."""

import pyarrow as pa

from logitlake.storage.lake.lake import Lake

_POINTS = 300
_RUNS = 12


def totals(lake: Lake) -> dict[str, int | float | str | None]:
    """The lake in one row: documents once each, whatever the number of recipes."""
    return lake.row(
        """
        SELECT
            (SELECT commit_number FROM store.guard) AS commit_number,
            (SELECT count(*) FROM store.recipes) AS n_recipes,
            (SELECT count(DISTINCT doc_id) FROM store.documents) AS n_documents,
            (SELECT count(*) FROM students) AS n_students,
            (SELECT count(*) FROM rejects) AS n_rejects,
            (SELECT count(*) FROM forgotten) AS n_forgotten,
            (SELECT count(*) FROM store.sequences) AS n_sequences,
            (SELECT coalesce(sum(n_tokens), 0)::BIGINT FROM store.sequences) AS n_tokens,
            (SELECT coalesce(sum(n_targets), 0)::BIGINT FROM store.sequences) AS n_targets
        """
    )


def recipes(lake: Lake) -> pa.Table:
    """A row per recipe, the oldest first: the recipe itself (JSON), bytes on disk and seconds of the teacher."""
    return lake.sql(
        """
        SELECT
            r.recipe_id, r.recipe, r.created_at, coalesce(r.n_tokens, 0)::BIGINT AS n_tokens,
            coalesce(r.n_targets, 0)::BIGINT AS n_targets, coalesce(r.n_bytes, 0)::BIGINT AS n_bytes, r.bytes_per_token,
            coalesce(c.seconds, 0) AS teacher_seconds, c.timed_tokens / nullif(c.seconds, 0) AS tokens_per_second
        FROM recipes AS r
        LEFT JOIN (
            SELECT recipe_id, sum(seconds) AS seconds, sum(n_tokens) FILTER (seconds > 0) AS timed_tokens
            FROM store.commits GROUP BY recipe_id
        ) AS c USING (recipe_id)
        ORDER BY r.created_at, r.recipe_id
        """
    )


def by_corpus(lake: Lake) -> pa.Table:
    """A row per recipe and corpus: counts, exact mean entropy and mean surprise in nats."""
    return lake.sql(
        """
        SELECT
            recipe_id, corpus, count(DISTINCT doc_id) AS n_documents, count(DISTINCT source) AS n_sources,
            sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets,
            sum(mean_entropy * n_targets) / nullif(sum(n_targets) FILTER (mean_entropy IS NOT NULL), 0) AS entropy,
            sum(mean_nll * n_targets) / nullif(sum(n_targets) FILTER (mean_nll IS NOT NULL), 0) AS surprise
        FROM store.sequences GROUP BY recipe_id, corpus ORDER BY recipe_id, n_tokens DESC, corpus
        """
    )


def growth(lake: Lake) -> pa.Table:
    """Tokens that each stretch of time brought, by recipe and corpus: some 300 stretches from the first commit to the
    last.

    `committed_at` is the last commit of the stretch, `began_at` when the teacher began with its first.
    """
    return lake.sql(
        """
        WITH commits AS (
            SELECT
                recipe_id, unit_id, max(committed_at) AS committed_at, max(commit_number) AS commit_number,
                max(committed_at) - to_seconds(max(seconds)) AS began_at
            FROM store.commits GROUP BY recipe_id, unit_id
        ), extent AS (
            SELECT min(epoch(committed_at)) AS begins, max(epoch(committed_at)) - min(epoch(committed_at)) AS lasts
            FROM commits
        ), units AS (
            SELECT recipe_id, unit_id, corpus, sum(n_tokens) AS n_tokens FROM store.sequences GROUP BY ALL
        )
        SELECT
            recipe_id, corpus, max(committed_at) AS committed_at, max(commit_number) AS commit_number,
            min(began_at) AS began_at, sum(n_tokens)::BIGINT AS n_tokens
        FROM commits JOIN units USING (recipe_id, unit_id), extent
        GROUP BY recipe_id, corpus, ((epoch(committed_at) - begins) * $points / greatest(lasts, 1))::BIGINT
        ORDER BY committed_at, recipe_id, corpus
        """,
        {"points": _POINTS},
    )


def latest_runs(lake: Lake) -> pa.Table:
    """The newest executions of flows: what each did and how long it took."""
    return lake.sql(
        """
        SELECT
            run_id, kind, recipe_id, started_at, status, n_documents, n_tokens::BIGINT AS n_tokens, teacher_seconds,
            epoch(ended_at) - epoch(started_at) AS seconds
        FROM runs ORDER BY started_at DESC LIMIT $runs
        """,
        {"runs": _RUNS},
    )
