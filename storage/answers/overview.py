"""A lake on one screen: what it holds, how it grew, which students were trained on it, and its health."""

from typing import Any

from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.forgetting import n_forgotten, n_removed
from logitlake.storage.upkeep.sweeping import holdings
from logitlake.storage.verification.known_damage import summary

_DAYS, _STUDENTS, _RUNS = 7, 5, 5


def overview(lake: Lake) -> dict[str, Any]:
    """Named facts under `lake`, `size` and `health`; rows under `recipes`, `growth`, `students` and `runs`.

    Read from small tables and the catalog alone: no shard is opened.
    """
    files = holdings(lake)
    return {
        "lake": _identity(lake),
        "size": {**_size(lake), "shards": files.n_shards, "bytes_on_disk": files.n_bytes},
        "recipes": _recipes(lake),
        "growth": _growth(lake),
        "students": _students(lake),
        "health": {**_health(lake), "small_files": files.n_small_files, "snapshots": files.n_snapshots},
        "runs": _runs(lake),
    }


def _identity(lake: Lake) -> dict[str, Any]:
    made = lake.row("SELECT value FROM store.lake_settings WHERE name = 'created_at'")
    return {
        "catalog": str(lake.location.catalog_file or "a PostgreSQL database"),
        "data": lake.location.data,
        "format_version": lake.row("SELECT format_version FROM store.guard")["format_version"],
        "made_at": made.get("value"),
        "held_out_share": lake.held_out_share,
        "commit_number": lake.commit_number,
    }


def _size(lake: Lake) -> dict[str, Any]:
    return lake.row(
        """
        SELECT
            count(DISTINCT doc_id) AS documents,
            count(DISTINCT doc_id) FILTER (held_out) AS held_out_documents,
            coalesce(sum(n_sequences), 0)::BIGINT AS sequences,
            coalesce(sum(n_tokens), 0)::BIGINT AS tokens,
            (SELECT sum(n_bytes) / nullif(sum(n_tokens), 0) FROM commits) AS bytes_per_token,
            (SELECT count(*) FROM rejects) AS rejects,
            (SELECT count(*) FROM forgotten) AS forgotten
        FROM documents
        """
    )


def _recipes(lake: Lake) -> list[dict[str, Any]]:
    return _rows(
        lake,
        """
        SELECT recipe_id, teacher, sparsifier, n_documents AS documents, n_tokens::BIGINT AS tokens, bytes_per_token
        FROM recipes ORDER BY created_at DESC
        """,
    )


def _growth(lake: Lake) -> list[dict[str, Any]]:
    """By day, the newest first."""
    return _rows(
        lake,
        f"""
        SELECT day::VARCHAR AS day, documents, tokens, n_bytes, teacher_hours, tokens_in_all FROM (
            SELECT
                *, (sum(tokens) OVER (ORDER BY day))::BIGINT AS tokens_in_all
            FROM (
                SELECT
                    committed_at::DATE AS day, sum(n_documents)::BIGINT AS documents, sum(n_tokens)::BIGINT AS tokens,
                    sum(n_bytes)::BIGINT AS n_bytes, sum(seconds) / 3600 AS teacher_hours
                FROM commits GROUP BY day
            )
        )
        ORDER BY day DESC LIMIT {_DAYS}
        """,
    )


def _students(lake: Lake) -> list[dict[str, Any]]:
    return _rows(
        lake,
        f"""
        SELECT
            student_id, a.aliases, created_at,
            (metrics ->> '$.after.cross_entropy')::DOUBLE AS cross_entropy,
            (metrics ->> '$.after.kl')::DOUBLE AS kl,
            (metrics ->> '$.teacher.cross_entropy')::DOUBLE AS teacher_cross_entropy
        FROM students
        LEFT JOIN (SELECT student_id, string_agg(alias, ', ') AS aliases FROM aliases GROUP BY ALL) AS a
            USING (student_id)
        ORDER BY a.aliases IS NULL, created_at DESC LIMIT {_STUDENTS}
        """,
    )


def _runs(lake: Lake) -> list[dict[str, Any]]:
    return _rows(
        lake,
        f"""
        SELECT
            run_id, kind, status, started_at, date_diff('second', started_at, ended_at) AS seconds,
            n_tokens::BIGINT AS n_tokens
        FROM runs ORDER BY started_at DESC LIMIT {_RUNS}
        """,
    )


def _health(lake: Lake) -> dict[str, Any]:
    upkeep = lake.row(
        """
        SELECT ended_at, status, detail ->> '$.error' AS error, (detail ->> '$.report.units_verified')::BIGINT AS units
        FROM runs WHERE kind = 'maintain' AND ended_at IS NOT NULL ORDER BY ended_at DESC
        """
    )
    runs = lake.row(
        """
        SELECT
            count(*) FILTER (status = 'failed' AND started_at > now() - INTERVAL 7 DAYS) AS failed,
            count(*) FILTER (status = 'started') AS open
        FROM runs
        """
    )
    return {
        "last_upkeep": upkeep.get("ended_at"),
        "last_upkeep_ended": upkeep.get("status"),
        "last_upkeep_error": upkeep.get("error"),
        "units_verified": upkeep.get("units"),
        "runs_failed_in_7_days": runs["failed"],
        "runs_without_an_end": runs["open"],
        "forgotten_rows_on_disk": n_forgotten(lake) > n_removed(lake),
        "known_damage": summary(lake),
    }


def _rows(lake: Lake, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lake.sql(query).to_pylist()
    return rows
