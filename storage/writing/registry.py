"""What the lake knows beside the sequences: recipes, vocabularies, sources, runs, students, rejects."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.errors import LakeError
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.json_text import json_text
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.object_store import write_note


def register_recipe(lake: Lake, recipe: Mapping[str, Any]) -> str:
    """Make a recipe known, in the catalog and as a small file beside the data; returns its id. Idempotent."""
    recipe_id = id_of_recipe(recipe)

    def known() -> bool:
        return bool(lake.row("SELECT 1 AS found FROM store.recipes WHERE recipe_id = ?", [recipe_id]))

    def register(transaction: Transaction) -> None:
        if not known():
            transaction.connection.execute(
                "INSERT INTO store.recipes VALUES (?, ?, ?)", [recipe_id, json.dumps(recipe, sort_keys=True), _now()]
            )

    if not known():
        write_note(lake.location, f"recipes/{recipe_id}.json", dict(recipe))
        lake.change(register)
    return recipe_id


def find_recipe(lake: Lake, prefix: str | None = None) -> tuple[str, dict[str, Any]]:
    """The recipe whose id starts with `prefix`, or the only one there is. Raises LakeError naming the candidates."""
    rows = lake.sql(
        "SELECT recipe_id, recipe FROM recipes WHERE starts_with(recipe_id, ?) ORDER BY created_at", [prefix or ""]
    )
    found = [(row["recipe_id"], json.loads(row["recipe"])) for row in rows.to_pylist()]
    if len(found) != 1:
        wanted = f"recipe {prefix!r}" if prefix else "one recipe"
        have = ", ".join(recipe_id[:12] for recipe_id, _ in found) or "none"
        raise LakeError(
            f"expected {wanted} in the lake, found {have}: name one by a longer prefix (`logitlake show recipes`)"
        )
    return found[0]


def register_vocabulary(lake: Lake, tokenizer_id: str, tokens: Sequence[str], special: set[int]) -> None:
    """Make the text of every token id known, for joins in SQL. `tokens[i]` is the text of id i. Idempotent."""

    def known() -> bool:
        return bool(lake.row("SELECT 1 AS found FROM store.vocabulary WHERE tokenizer_id = ? LIMIT 1", [tokenizer_id]))

    if known():
        return
    rows = pa.table(
        {
            "tokenizer_id": pa.array([tokenizer_id] * len(tokens), pa.string()),
            "token_id": pa.array(range(len(tokens)), pa.int32()),
            "token": pa.array(tokens, pa.string()),
            "is_special": pa.array([number in special for number in range(len(tokens))], pa.bool_()),
        }
    )
    # Two captures may begin at once, and every join with a vocabulary that stands twice counts twice: looked at again.
    lake.change(lambda transaction: None if known() else transaction.insert("vocabulary", rows))


def note_run(lake: Lake, run_id: str, event: str, *, kind: str, recipe_id: str | None, **detail: Any) -> None:
    """Record that something happened to a run: started, finished, failed, interrupted."""
    values = [run_id, event, _now(), kind, recipe_id, json_text(detail)]
    lake.change(
        lambda transaction: transaction.connection.execute(
            "INSERT INTO store.run_events VALUES (?, ?, ?, ?, ?, ?)", values
        )
    )


def note_sightings(lake: Lake, run_id: str, sources: pa.Table, rejects: pa.Table) -> None:
    """Record where documents were seen and what was rejected, if any of it is new."""
    if sources.num_rows or rejects.num_rows:
        lake.change(lambda transaction: insert_sightings(transaction, run_id, sources, rejects))


def insert_sightings(transaction: Transaction, run_id: str, sources: pa.Table, rejects: pa.Table) -> None:
    """Within a transaction: the sources (doc_id, corpus, source, line) and rejects that are not yet known."""
    connection = transaction.connection
    if sources.num_rows:
        connection.register("incoming_sources", sources)
        new = connection.execute(
            """
            SELECT doc_id, corpus, source, line::BIGINT AS line FROM incoming_sources
            EXCEPT FROM store.document_sources
            """
        ).to_arrow_table()
        connection.unregister("incoming_sources")
        transaction.insert("document_sources", new)
    if rejects.num_rows:
        connection.register("incoming_rejects", rejects)
        new = connection.execute(
            """
            SELECT DISTINCT ON (corpus, source, line, reason)
                corpus, source, line::BIGINT AS line, reason, detail, ? AS run_id, ?::TIMESTAMPTZ AS seen_at
            FROM incoming_rejects AS i
            WHERE NOT EXISTS (
                FROM store.rejects AS r
                WHERE (r.corpus, r.source, r.reason) = (i.corpus, i.source, i.reason)
                    AND r.line IS NOT DISTINCT FROM i.line
            )
            """,
            [run_id, _now()],
        ).to_arrow_table()
        connection.unregister("incoming_rejects")
        transaction.insert("rejects", new)


def register_student(
    lake: Lake,
    *,
    student_id: str,
    parent_id: str,
    row_set_id: str,
    run_id: str,
    directory: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Make a trained student and its lineage known. Registering it again with new metrics replaces what is shown."""
    values = [student_id, parent_id, row_set_id, run_id, directory]
    texts = [json_text(value) for value in (settings, metrics)]
    write_note(
        lake.location,
        f"students/{student_id}.json",
        {
            "student_id": student_id,
            "parent_id": parent_id,
            "row_set_id": row_set_id,
            "directory": directory,
            "settings": json.loads(texts[0]),
            "metrics": json.loads(texts[1]),
        },
    )
    row = [*values, *texts, _now()]
    lake.change(
        lambda transaction: transaction.connection.execute(
            "INSERT INTO store.students VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
        )
    )


def find_student(lake: Lake, prefix: str) -> dict[str, Any]:
    """The student whose id starts with `prefix`, settings and metrics decoded; empty if there is none."""
    row = lake.row("SELECT * FROM students WHERE starts_with(student_id, ?) ORDER BY created_at DESC", [prefix])
    return row and {**row, "settings": json.loads(row["settings"]), "metrics": json.loads(row["metrics"])}


def _now() -> datetime:
    return datetime.now(UTC)
