"""The lists that a person asks for most, newest first: one query over the views for each."""

from dataclasses import dataclass

import pyarrow as pa

from logitlake.storage.lake.lake import Lake

LISTINGS = {
    "recipes": """
        SELECT
            recipe_id, teacher, teacher_model, sparsifier, temperature, n_documents, n_tokens, bytes_per_token,
            created_at
        FROM recipes ORDER BY created_at DESC""",
    "runs": """
        SELECT
            run_id, kind, status, recipe_id, started_at, ended_at, n_documents::BIGINT AS n_documents,
            n_tokens::BIGINT AS n_tokens, tokens_per_second
        FROM runs ORDER BY started_at DESC""",
    "commits": """
        SELECT commit_number, committed_at, unit_id, recipe_id, n_documents, n_tokens, n_bytes, seconds
        FROM commits ORDER BY commit_number DESC""",
    "documents": """
        SELECT doc_id, recipe_id, n_tokens, n_sequences, held_out, commit_number, sources
        FROM documents ORDER BY commit_number DESC, doc_id""",
    "rejects": "SELECT corpus, source, line, reason, detail, last_seen FROM rejects ORDER BY corpus, source, line",
    "row-sets": """
        SELECT row_set_id, recipe_ids, up_to_commit, filter, weight, n_sequences, n_tokens, n_targets, created_at
        FROM row_sets ORDER BY created_at DESC""",
    "promotions": """
        SELECT commit_number, decided_at, alias, decision, student_id, figures ->> '$.reason' AS reason
        FROM promotions ORDER BY commit_number DESC""",
    "aliases": "SELECT alias, student_id, since_commit FROM aliases ORDER BY alias",
    "students": """
        SELECT
            student_id, a.aliases, created_at, (metrics ->> '$.after.cross_entropy')::DOUBLE AS cross_entropy,
            (metrics ->> '$.after.kl')::DOUBLE AS kl, parent_id, row_set_id, directory, metrics
        FROM students
        LEFT JOIN (SELECT student_id, list(alias ORDER BY alias) AS aliases FROM aliases GROUP BY ALL) AS a
            USING (student_id)
        ORDER BY created_at DESC""",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """The first rows of a list, and how many there are in all."""

    rows: pa.Table
    n_rows: int


def listing(lake: Lake, name: str, *, limit: int) -> Listing:
    """One of LISTINGS, at most `limit` rows of it."""
    rows = lake.sql(f"SELECT *, count(*) OVER () AS n_rows FROM ({LISTINGS[name]}) LIMIT {int(limit)}")
    n_rows = rows["n_rows"][0].as_py() if rows.num_rows else 0
    return Listing(rows.drop_columns(["n_rows"]), n_rows)


def ancestry(lake: Lake, student_id: str) -> pa.Table:
    """A student and its ancestors, nearest first, with the row set that each was trained on."""
    return lake.sql(
        """
        SELECT
            depth, ancestor_id, parent_id, row_set_id, recipe_ids, up_to_commit, filter, weight, n_sequences, n_targets
        FROM lineage WHERE student_id = ? ORDER BY depth
        """,
        [student_id],
    )


NAMES = {
    "student": """
        SELECT alias AS name, 'student ' || student_id[:12] AS about FROM aliases
        UNION ALL
        SELECT student_id, 'trained ' || strftime(created_at, '%Y-%m-%d %H:%M') FROM students""",
    "recipe": "SELECT recipe_id AS name, teacher || ', ' || sparsifier AS about FROM recipes",
    "run": "SELECT run_id AS name, kind || ', ' || status AS about FROM runs",
    "row-set": "SELECT row_set_id AS name, n_sequences || ' sequences' AS about FROM row_sets",
    "document": """
        SELECT DISTINCT corpus || '/' || source AS name, 'document' AS about FROM sources
        UNION ALL
        SELECT DISTINCT doc_id, 'document' FROM documents WHERE len($beginning) > 1""",
}


_OFFERED = 50


def names(lake: Lake, kind: str, beginning: str) -> list[tuple[str, str]]:
    """Up to fifty names of a kind (see NAMES) that start with `beginning`, each with a word about it."""
    rows = lake.sql(
        f"""
        SELECT name, about FROM ({NAMES[kind]}) WHERE starts_with(name, $beginning) ORDER BY name LIMIT {_OFFERED}
        """,
        {"beginning": beginning},
    )
    return list(zip(rows["name"].to_pylist(), rows["about"].to_pylist(), strict=True))
