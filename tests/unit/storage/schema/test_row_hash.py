"""The hash of a row: canonical, over every column, and stable when a later format adds a column."""

import json
import struct
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from logitlake.storage.schema.row_hash import row_hashes
from logitlake.storage.schema.tables import TABLES

SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "number": pa.int64(),
        "short": pa.int32(),
        "real": pa.float64(),
        "flag": pa.bool_(),
        "time": pa.timestamp("us", "UTC"),
        "names": pa.list_(pa.string()),
    }
)
VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(),
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "short": st.none() | st.integers(-(2**31), 2**31 - 1),
        "real": st.none() | st.floats(allow_nan=False),
        "flag": st.none() | st.booleans(),
        "time": st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC)),
        "names": st.none() | st.lists(st.text(st.characters(codec="utf-8")), max_size=3),
    }
)


def _reference(row: dict[str, Any]) -> int:
    """The documented bytes of a row, one value at a time."""
    content = b""
    for name, value in sorted(row.items()):
        if value is None:
            continue
        if isinstance(value, bool):
            data = struct.pack("<b", value)
        elif isinstance(value, int):
            data = struct.pack("<q", value)
        elif isinstance(value, float):
            data = struct.pack("<d", value)
        elif isinstance(value, datetime):
            since = value - datetime(1970, 1, 1, tzinfo=UTC)
            data = struct.pack("<q", (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds)
        elif isinstance(value, list):
            data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        else:
            data = value.encode()
        content += name.encode() + b"\0" + struct.pack("<q", len(data)) + data
    return xxhash.xxh3_64_intdigest(content)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_the_hash_is_that_of_the_documented_bytes(rows):
    table = pa.Table.from_pylist(rows, SCHEMA)
    expected = [_reference(row) for row in rows]
    assert row_hashes(table).to_pylist() == expected
    assert row_hashes(pa.concat_tables([table, table]).slice(1)).to_pylist() == (expected + expected)[1:]
    backwards = table.select(SCHEMA.names[::-1])
    assert row_hashes(backwards).to_pylist() == expected


def test_a_column_that_a_later_format_adds_changes_no_hash_while_it_is_null():
    table = pa.Table.from_pylist([{"text": "a", "number": 1}], pa.schema({"text": pa.string(), "number": pa.int64()}))
    later = table.append_column("later", pa.nulls(1, pa.string()))
    assert row_hashes(later).equals(row_hashes(table))
    assert not row_hashes(table.append_column("later", pa.array([""]))).equals(row_hashes(table))


def test_the_hash_of_a_row_never_changes():
    row = {"doc_id": "d" * 32, "recipe_id": "r" * 32, "unit_id": "u" * 32, "n_tokens": 12, "n_sequences": 2}
    rows = pa.Table.from_pylist([row], TABLES["documents"].columns)
    assert row_hashes(rows).to_pylist() == [_reference(row)] == [12065642867283126894]
