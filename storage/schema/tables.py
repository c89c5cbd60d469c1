"""Every table of the lake, described once: columns, key, and how as-of views, forgetting and rebuild treat it.

The tables are in the schema `store`. People query the views of `views.sql` in the schema `main`. Almost every table
only gets new rows: state such as the status of a run is derived by views. So a lost catalog can be made again: the
union of a table's Parquet files, without duplicates, is the table.

A new table is one entry of `TABLES`: creation, migration, as-of views, forgetting, rebuild and verify read it there.
"""

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from logitlake.storage.schema.sequences import SEQUENCES

# The lake's name in a DuckDB session.
NAME = "lake"
ROW_HASH = "row_hash"

# Conditions of a view as of a commit: $n is the commit number, $t the time of the first commit after it.
_IN_COMMITS = "unit_id IN (SELECT unit_id FROM store.commits)"
_IN_DOCUMENTS = "doc_id IN (SELECT doc_id FROM store.documents)"
_IN_ROW_SETS = "row_set_id IN (SELECT row_set_id FROM store.row_sets)"

_TEXT, _NUMBER, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TIME = pa.timestamp("us", "UTC")

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    _TIME: "TIMESTAMPTZ",
}


class Rebuild(Enum):
    """Where `rebuild` takes the rows of a table from."""

    WITH_LAKE = "they are written when the lake is made"
    FROM_SHARDS = "they follow from the shards"
    FROM_FILES = "they are the union of the table's files, without duplicates"
    NEVER = "they speak of the catalog that was lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the schema `store`.

    `key`: the columns that name a row to a person. `as_of`: SQL condition for the rows that were there at a commit.
    `of_documents`: the rows belong to one document each (`doc_id`), so a view without held-out documents hides theirs.
    `forgotten_by`: the columns of which one names the forgotten document; a trace goes with its prompt.
    `forget` and `retire`: forgetting a document, or retiring a recipe, deletes its rows. `hashed`: the rows have a
    `row_hash`. `partition`: the column that files are partitioned by.
    """

    columns: pa.Schema
    key: tuple[str, ...]
    rebuild: Rebuild = Rebuild.FROM_FILES
    as_of: str = "true"
    of_documents: bool = False
    forget: bool = False
    forgotten_by: tuple[str, ...] = ("doc_id",)
    retire: bool = False
    hashed: bool = True
    partition: str | None = None

    @property
    def stored(self) -> pa.Schema:
        """All columns in the catalog: the described ones, and the row hash."""
        return self.columns.append(pa.field(ROW_HASH, pa.uint64())) if self.hashed else self.columns


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type of an Arrow type that a table uses."""
    return f"{sql_type(kind.value_type)}[]" if pa.types.is_list(kind) else _SQL_TYPES[kind]


def create_statements(name: str, table: Table) -> list[str]:
    """The statements that create a table in the catalog."""
    columns = ", ".join(
        f'"{field.name}" {sql_type(field.type)}{"" if field.nullable else " NOT NULL"}' for field in table.stored
    )
    statements = [f"CREATE TABLE store.{name} ({columns})"]
    if table.partition:
        statements.append(f"ALTER TABLE store.{name} SET PARTITIONED BY ({table.partition})")
    return statements


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Columns that are never null, but those whose name ends in `_or_null`: that ending is cut off."""
    return pa.schema(
        [
            pa.field(name.removesuffix("_or_null"), kind, nullable=name.endswith("_or_null"))
            for name, kind in columns.items()
        ]
    )


TABLES: dict[str, Table] = {
    # One row. Every commit raises its number in the transaction that registers what is committed, so that two commits
    # at the same time conflict here.
    "guard": Table(
        columns=_schema(commit_number=_NUMBER, format_version=pa.int32()),
        key=("commit_number",),
        rebuild=Rebuild.WITH_LAKE,
        hashed=False,
    ),
    # What is fixed when a lake is made, such as the held-out rule.
    "lake_settings": Table(columns=_schema(name=_TEXT, value=_TEXT), key=("name",), rebuild=Rebuild.WITH_LAKE),
    "commits": Table(
        columns=_schema(
            commit_number=_NUMBER,
            unit_id=_TEXT,
            recipe_id=_TEXT,
            run_id=_TEXT,
            committed_at=_TIME,
            n_documents=_NUMBER,
            n_sequences=_NUMBER,
            n_tokens=_NUMBER,
            n_targets=_NUMBER,
            n_bytes=_NUMBER,
            seconds=_REAL,
        ),
        key=("commit_number", "unit_id"),
        as_of="commit_number <= $n",
        retire=True,
    ),
    "recipes": Table(
        columns=_schema(recipe_id=_TEXT, recipe=_TEXT, created_at=_TIME), key=("recipe_id",), as_of="created_at < $t"
    ),
    "documents": Table(
        columns=_schema(doc_id=_TEXT, recipe_id=_TEXT, unit_id=_TEXT, n_tokens=_NUMBER, n_sequences=pa.int32()),
        key=("doc_id", "recipe_id"),
        rebuild=Rebuild.FROM_SHARDS,
        as_of=_IN_COMMITS,
        of_documents=True,
        forget=True,
        retire=True,
    ),
    # Files that a document was read from.
    "document_sources": Table(
        columns=_schema(doc_id=_TEXT, corpus=_TEXT, source=_TEXT, line_or_null=_NUMBER),
        key=("doc_id", "corpus", "source", "line"),
        as_of=_IN_DOCUMENTS,
        of_documents=True,
        forget=True,
    ),
    # Rows of the cache, each with a checksum. Compaction must never put rows of two recipes into one file.
    "sequences": Table(
        columns=SEQUENCES,
        key=("recipe_id", "doc_id", "window_index"),
        rebuild=Rebuild.FROM_SHARDS,
        as_of=_IN_COMMITS,
        of_documents=True,
        forget=True,
        retire=True,
        hashed=False,
        partition="recipe_id",
    ),
    # Completions that a model wrote for prompts. Each is a document; its id begins with the id of its prompt.
    "traces": Table(
        columns=_schema(
            doc_id=_TEXT,
            prompt_id=_TEXT,
            prompt_doc_id=_TEXT,
            sampling_id=_TEXT,
            sample_number=pa.int32(),
            writer=_TEXT,
            sampling=_TEXT,
            tokenizer_id=_TEXT,
            prompt_ids=pa.list_(pa.int32()),
            completion_ids=pa.list_(pa.int32()),
            logprobs=pa.list_(pa.float32()),
            finished=_FLAG,
            completion=_TEXT,
            corpus=_TEXT,
            source=_TEXT,
            line_or_null=_NUMBER,
            commit_number=_NUMBER,
            run_id=_TEXT,
            written_at=_TIME,
        ),
        key=("prompt_id", "sampling_id", "sample_number"),
        as_of="commit_number <= $n",
        of_documents=True,
        forget=True,
        forgotten_by=("doc_id", "prompt_id", "prompt_doc_id"),
    ),
    # Samples whose trace is forgotten, while their prompt is not: they are not written again. They hold no content.
    "forgotten_samples": Table(
        columns=_schema(prompt_id=_TEXT, sampling_id=_TEXT, sample_number=pa.int32(), forgotten_at=_TIME),
        key=("prompt_id", "sampling_id", "sample_number"),
        as_of="forgotten_at < $t",
        forget=True,
        forgotten_by=("prompt_id",),
    ),
    # What verifiers said of traces; the last verdict on a trace counts. `reference_id`: the hash of the reference that
    # it was compared with.
    "verdicts": Table(
        columns=_schema(
            doc_id=_TEXT,
            verifier_id=_TEXT,
            reference_id_or_null=_TEXT,
            verifier=_TEXT,
            score=_REAL,
            is_kept=_FLAG,
            reason=_TEXT,
            commit_number=_NUMBER,
            run_id=_TEXT,
            judged_at=_TIME,
        ),
        key=("doc_id", "verifier_id", "commit_number"),
        as_of="commit_number <= $n",
        of_documents=True,
        forget=True,
    ),
    "vocabulary": Table(
        columns=_schema(tokenizer_id=_TEXT, token_id=pa.int32(), token=_TEXT, is_special=_FLAG),
        key=("tokenizer_id", "token_id"),
    ),
    "run_events": Table(
        columns=_schema(
            run_id=_TEXT, event=_TEXT, happened_at=_TIME, kind=_TEXT, recipe_id_or_null=_TEXT, detail=_TEXT
        ),
        key=("run_id", "event", "happened_at"),
        as_of="happened_at < $t",
    ),
    "row_sets": Table(
        columns=_schema(
            row_set_id=_TEXT,
            recipe_ids=pa.list_(_TEXT),
            up_to_commit=_NUMBER,
            filter_or_null=_TEXT,
            weight_or_null=_TEXT,
            n_sequences=_NUMBER,
            n_tokens=_NUMBER,
            n_targets=_NUMBER,
            content_hash=_TEXT,
            created_at=_TIME,
        ),
        key=("row_set_id",),
        as_of="up_to_commit <= $n AND created_at < $t",
    ),
    # The query that chose the documents of a row set; only for row sets that have one.
    "row_set_queries": Table(columns=_schema(row_set_id=_TEXT, query=_TEXT), key=("row_set_id",), as_of=_IN_ROW_SETS),
    # The documents of a row set with a filter or a query, and the sampling weight that the query gave. Forgetting
    # leaves them: they tell which students were trained on a document.
    "row_set_documents": Table(
        columns=_schema(row_set_id=_TEXT, doc_id=_TEXT, weight_or_null=_REAL),
        key=("row_set_id", "doc_id"),
        as_of=_IN_ROW_SETS,
        of_documents=True,
    ),
    "students": Table(
        columns=_schema(
            student_id=_TEXT,
            parent_id=_TEXT,
            row_set_id=_TEXT,
            run_id=_TEXT,
            directory=_TEXT,
            settings=_TEXT,
            metrics=_TEXT,
            created_at=_TIME,
        ),
        key=("student_id", "created_at"),
        as_of="created_at < $t",
    ),
    # Sums over the targets of one document, in nats, each time a student is evaluated; `kl` is null where unknown.
    "student_losses": Table(
        columns=_schema(
            student_id=_TEXT,
            recipe_id=_TEXT,
            doc_id=_TEXT,
            n_targets=_NUMBER,
            student_loss=_REAL,
            teacher_loss=_REAL,
            kl_or_null=_REAL,
            exact=_FLAG,
            run_id=_TEXT,
            measured_at=_TIME,
        ),
        key=("student_id", "recipe_id", "doc_id", "run_id"),
        as_of="measured_at < $t",
        of_documents=True,
        forget=True,
    ),
    # Every decision about a candidate student. An alias such as `current` points to the student of the last decision
    # that was not a rejection.
    "promotions": Table(
        columns=_schema(
            commit_number=_NUMBER,
            alias=_TEXT,
            student_id=_TEXT,
            decision=_TEXT,
            figures=_TEXT,
            run_id=_TEXT,
            decided_at=_TIME,
        ),
        key=("commit_number", "alias", "student_id"),
        as_of="commit_number <= $n",
    ),
    # Documents of a corpus that could not be used.
    "rejects": Table(
        columns=_schema(
            corpus=_TEXT, source=_TEXT, line_or_null=_NUMBER, reason=_TEXT, detail=_TEXT, run_id=_TEXT, seen_at=_TIME
        ),
        key=("corpus", "source", "line", "reason"),
        as_of="seen_at < $t",
    ),
    # Documents that somebody asked to forget: excluded under every recipe, for ever.
    "tombstones": Table(
        columns=_schema(doc_id=_TEXT, reason=_TEXT, forgotten_at=_TIME), key=("doc_id",), as_of="forgotten_at < $t"
    ),
    # Damage that is known: found by `verify` and `maintain`, removed once the rows are intact again. A row per damaged
    # document, or one without a document for the file of a small table.
    "damage": Table(
        columns=_schema(
            table_name=_TEXT,
            unit_id_or_null=_TEXT,
            recipe_id_or_null=_TEXT,
            doc_id_or_null=_TEXT,
            file=_TEXT,
            problem=_TEXT,
            found_at=_TIME,
        ),
        key=("table_name", "unit_id", "doc_id", "file"),
        rebuild=Rebuild.NEVER,
        of_documents=True,
        forget=True,
        retire=True,
    ),
}
