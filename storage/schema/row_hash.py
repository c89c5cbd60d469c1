"""The hash of a row of a small table, and the one way to insert rows: with their hash.

The hash is XXH3 (64 bits) over a canonical byte string. Each column that is not null adds its name, a zero byte, the
length of its value (8 bytes, little-endian) and the value, in the alphabetical order of the names. Values are UTF-8
text, 64-bit integers, 64-bit floats, one byte for a boolean, microseconds since 1970 for a time, and canonical JSON for
a list. A column that a later format adds and that is null changes no hash.
"""

from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from logitlake.storage.identity import canonical_json
from logitlake.storage.schema.tables import ROW_HASH, TABLES

_EMPTY = pa.scalar(b"", pa.large_binary())


def row_hashes(rows: pa.Table) -> pa.Array:
    """The hash of every row (uint64), over all columns but `row_hash`."""
    names = sorted(set(rows.column_names) - {ROW_HASH})
    if not rows.num_rows:
        return pa.array([], pa.uint64())
    columns = [_named(name, pa.concat_arrays(rows[name].chunks)) for name in names]
    joined = pc.binary_join_element_wise(*columns, _EMPTY, null_handling="replace", null_replacement=b"")
    _, offsets, content = joined.buffers()
    bounds = np.frombuffer(offsets, "<i8")[joined.offset : joined.offset + len(joined) + 1].tolist()
    view = memoryview(content)
    return pa.array([xxhash.xxh3_64_intdigest(view[i:j]) for i, j in pairwise(bounds)], pa.uint64())


def damaged_rows(rows: pa.Table) -> pa.Array:
    """For each row of a table with its `row_hash`, whether the row has another hash; false where it has none."""
    content = rows.select([name for name in rows.column_names if name not in (ROW_HASH, "filename")])
    stored = pa.concat_arrays([pa.array([], pa.uint64()), *rows[ROW_HASH].chunks])
    return pc.fill_null(pc.not_equal(stored, row_hashes(content)), False)


def describe(name: str, rows: pa.Table) -> list[str]:
    """The key of every row of the table `name`, as a person reads it in a message."""
    key = [column for column in TABLES[name].key if column in rows.column_names]
    return [", ".join(f"{column}={value}" for column, value in row.items()) for row in rows.select(key).to_pylist()]


def insert_rows(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Append rows to the table `name` of the lake, columns matched by name, with their hash.

    Described columns that `rows` lacks become null; columns that are not described are left out.
    """
    insert_hashed(connection, name, with_row_hash(name, rows))


def with_row_hash(name: str, rows: pa.Table) -> pa.Table:
    """The described columns of rows of the table `name`, and their hash."""
    table = TABLES[name]
    columns = [field for field in table.columns if field.name in rows.column_names]
    rows = rows.select([field.name for field in columns]).cast(pa.schema(columns))
    return rows.append_column(ROW_HASH, row_hashes(rows)) if table.hashed else rows


def insert_hashed(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Append rows that `with_row_hash` made."""
    if not rows.num_rows:
        return
    connection.register("incoming_rows", rows)
    try:
        connection.execute(f"INSERT INTO store.{name} BY NAME SELECT * FROM incoming_rows")
    finally:
        connection.unregister("incoming_rows")


def _named(name: str, values: pa.Array) -> pa.Array:
    """Name, length and value of a column as bytes; null where the value is null."""
    content = _bytes(values).cast(pa.large_binary())
    lengths = pc.binary_length(content).cast(pa.int64())
    prefix = pa.scalar(name.encode() + b"\0", pa.large_binary())
    return pc.binary_join_element_wise(prefix, _little_endian(lengths), content, _EMPTY)


def _bytes(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_list(kind):
        return pa.array([None if v is None else canonical_json(v) for v in values.to_pylist()], pa.large_binary())
    if pa.types.is_string(kind):
        return values.cast(pa.binary())
    if pa.types.is_boolean(kind):
        return _little_endian(values.cast(pa.int8()))
    if pa.types.is_timestamp(kind):
        return _little_endian(values.cast(pa.timestamp("us", kind.tz)))
    return _little_endian(values.cast(pa.float64() if pa.types.is_floating(kind) else pa.int64()))


def _little_endian(values: pa.Array) -> pa.Array:
    """The bytes of fixed-width values as they lie in memory: little-endian on every machine that DuckDB supports."""
    fixed = pa.binary(values.type.bit_width // 8)
    array = pa.Array.from_buffers(fixed, len(values), values.buffers(), values.null_count, values.offset)
    return array.cast(pa.large_binary())
