"""Names that a person may type the beginning of: ids, aliases, sources. One query for each kind."""

from logitlake.storage.lake.lake import Lake

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
