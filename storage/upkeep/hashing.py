"""Row hashes for the rows that an older logitlake wrote without one."""

import pyarrow as pa

from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.tables import ROW_HASH, TABLES

_ROWS_PER_TRANSACTION = 500_000


def add_row_hashes(lake: Lake) -> int:
    """Give every row of the small tables its hash; returns how many lacked it. Killed, the next call goes on.

    Each transaction replaces at most 500,000 rows, so memory does not grow with the lake.
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
    def replace(transaction: Transaction) -> int:
        rows: pa.Table = lake.sql(
            f"SELECT rowid AS row_number, * FROM store.{name} WHERE {ROW_HASH} IS NULL LIMIT {_ROWS_PER_TRANSACTION}"
        )
        connection = transaction.connection
        connection.register("hashed_rows", pa.table({"row_number": rows["row_number"]}))
        connection.execute(f"DELETE FROM store.{name} WHERE rowid IN (SELECT row_number FROM hashed_rows)")
        connection.unregister("hashed_rows")
        transaction.insert(name, rows)
        return int(rows.num_rows)

    total = 0
    while lake.row(f"SELECT 1 AS present FROM store.{name} WHERE {ROW_HASH} IS NULL LIMIT 1"):
        total += lake.change(replace)
        reach("rows-hashed")
    return total
