"""Documents that a query chooses for training, and checks of filters and weights.

The query runs over views without the held-out documents, so it can neither name one nor use its content; the held-out
rule is applied again when rows are read. The chosen documents are stored with the row set, because the query may give
another result later and a row set must not change.
"""

import re

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.connection.memory_errors import raise_for_lack_of_memory
from logitlake.storage.errors import LogitlakeError, QueryError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.sql.sql_tree import (
    functions,
    has_subquery,
    has_window_function,
    is_sampled,
    parse_select,
    unstable_functions,
)

CHOSEN = pa.schema([("doc_id", pa.string()), ("weight", pa.float64())])


def choose_documents(lake: Lake, query: str) -> pa.Table:
    """The documents (CHOSEN) that the query names, each once; `weight` is null where the query gives none.

    Raises SettingsError for a query that does more than read, has other columns than `doc_id` and `weight`, has a
    weight that is not a number from 0, or can give another result each time.
    """
    try:
        _check_stable(query)
        with ReadSession(lake.location, held_out=False) as session:
            answer = session.ask(query)
    except LogitlakeError as error:
        raise SettingsError(f"training.query: {error}") from None
    return _checked(answer)


def _check_stable(query: str) -> None:
    tree = parse_select(query)
    if unstable := functions(tree) & unstable_functions():
        raise SettingsError(f"{', '.join(sorted(unstable))} gives another result each time")
    if is_sampled(tree):
        raise SettingsError("a sample is another one every time: choose by a hash of doc_id")


def _checked(answer: pa.Table) -> pa.Table:
    names = answer.column_names
    if names not in (["doc_id"], ["doc_id", "weight"]):
        raise SettingsError(
            f"training.query: expected the columns doc_id and, if wanted, weight; found {', '.join(names)}"
        )
    if not pa.types.is_string(answer["doc_id"].type):
        raise SettingsError(
            f"training.query: expected ids of documents as text in doc_id, found {answer['doc_id'].type}"
        )
    if answer["doc_id"].null_count:
        raise SettingsError("training.query: a doc_id is NULL")
    weights = _weights(answer["weight"]) if "weight" in names else pa.nulls(answer.num_rows, pa.float64())
    chosen = pa.table([answer["doc_id"], weights], schema=CHOSEN)
    single = chosen.group_by(["doc_id", "weight"]).aggregate([]).select(CHOSEN.names).sort_by("doc_id")
    if len(single["doc_id"].unique()) < single.num_rows:
        raise SettingsError("training.query: a document has two weights; give it one, such as max(weight)")
    return single


def _weights(weights: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        numbers = weights.cast(pa.float64())
    except pa.ArrowException:
        raise SettingsError(f"training.query: expected a number as weight, found {weights.type}") from None
    usable = pc.and_(pc.is_finite(numbers), pc.greater_equal(numbers, 0))
    if numbers.null_count or not pc.all(usable, min_count=0).as_py():
        raise SettingsError("training.query: a weight must be a finite number of at least 0, and not NULL")
    return numbers


def check_expression(lake: Lake, name: str, expression: str) -> None:
    """Refuse what is not one plain expression: a row set must mean the same whenever it is read."""
    setting = f"training.{name} {expression!r}"
    try:
        tree = parse_select(f"SELECT ({expression})")
        kind = str(lake.connection.sql("SELECT * FROM sequences LIMIT 0").select(f"({expression}) AS value").types[0])
    except (duckdb.Error, QueryError) as error:
        raise_for_lack_of_memory(error)
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{setting}: not an expression over the view `sequences`: {reason}") from None
    if has_subquery(tree):
        raise SettingsError(f"{setting}: a subquery may answer differently later, and a row set must not; name columns")
    if unstable := functions(tree) & unstable_functions():
        raise SettingsError(f"{setting}: {', '.join(sorted(unstable))} answers differently every time")
    if has_window_function(tree):
        raise SettingsError(f"{setting}: rows are read some units at a time, so a window over them means nothing")
    if name == "where" and kind != "BOOLEAN":
        raise SettingsError(f"{setting}: expected BOOLEAN, found {kind}")
    if name == "weight" and not re.match(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL)", kind):
        raise SettingsError(f"{setting}: expected a number, found {kind}")
