"""Row hashes for the rows that an older logitlake wrote without one."""

import pyarrow as pa

from logitlake.storage.errors import LakeBusyError, LostRaceError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.row_hash import insert_hashed, with_row_hash
from logitlake.storage.schema.tables import ROW_HASH, TABLES

# A transaction that replaces few rows is short, so that it can commit between the commits of other writers. Measured on
# PostgreSQL: 20,000 rows take .5 to 1.5 s, 1,000 rows .1 to .4 s, and a single row no less.
_ROWS_PER_TRANSACTION = 20_000
_FEWEST_ROWS = 1_000
_LOST_RACES = 20


def add_row_hashes(lake: Lake) -> int:
    """Give every row of the small tables its hash; returns how many lacked it. Stopped, the next call goes on.

    Each transaction replaces at most 20,000 rows; half as many, down to 1,000, after another commit came first, and
    twice as many after it succeeded. Raises LakeBusyError if other writers commit first 20 times in a row; what was
    done before stays.
    """
    return sum(_hash_table(lake, name) for name, table in TABLES.items() if table.hashed)


def count_without_hash(lake: Lake) -> dict[str, int]:
    """How many rows of each small table carry no hash; tables without such rows are left out."""
    counts = {
        name: int(lake.row(f"SELECT count(*) AS n FROM store.{name} WHERE {ROW_HASH} IS NULL")["n"])
        for name, table in TABLES.items()
        if table.hashed
    }
    return {name: count for name, count in counts.items() if count}


def _hash_table(lake: Lake, name: str) -> int:
    total = lost = 0
    n_rows = _ROWS_PER_TRANSACTION
    while (rows := _rows_without_hash(lake, name, n_rows)).num_rows:
        hashed = with_row_hash(name, rows)
        try:
            _replace(lake, name, rows["row_number"], hashed)
        except LostRaceError:
            lost += 1
            n_rows = max(_FEWEST_ROWS, n_rows // 2)
            if lost == _LOST_RACES:
                raise LakeBusyError(
                    f"table {name}: other writers committed first {lost} times in a row, so not all rows have a row "
                    "hash yet: `logitlake maintain` goes on"
                ) from None
            continue
        total, lost, n_rows = total + rows.num_rows, 0, min(_ROWS_PER_TRANSACTION, 2 * n_rows)
        reach("rows-hashed")
    return total


def _rows_without_hash(lake: Lake, name: str, n_rows: int) -> pa.Table:
    return lake.sql(f"SELECT rowid AS row_number, * FROM store.{name} WHERE {ROW_HASH} IS NULL LIMIT {n_rows}")


def _replace(lake: Lake, name: str, row_numbers: pa.ChunkedArray, hashed: pa.Table) -> None:
    """Put `hashed` in the place of the rows they were made from, in one transaction.

    Raises LostRaceError if another commit came first, or if some of the rows were deleted meanwhile: then they were
    forgotten, and must not come back.
    """
    with lake.transaction() as transaction:
        connection = transaction.connection
        connection.register("hashed_rows", pa.table({"row_number": row_numbers}))
        try:
            deleted = connection.execute(
                f"DELETE FROM store.{name} WHERE rowid IN (SELECT row_number FROM hashed_rows)"
            ).fetchone()
        finally:
            connection.unregister("hashed_rows")
        if deleted is None or deleted[0] != hashed.num_rows:
            raise LostRaceError(f"rows of the table {name} were deleted while their hashes were computed")
        insert_hashed(connection, name, hashed)
