"""How many rows of a Parquet row group are read at once, so that a batch stays small."""

from typing import BinaryIO

import pyarrow.parquet as pq

_BATCH_ROWS = 256
# By the sizes in the footer: what a batch should take.
_USUAL_BYTES = 16 * 2**20
# By the largest value that a dictionary may hold: what a batch may take.
_MOST_BYTES = 256 * 2**20
_I32 = 0x15


def rows_per_batch(stream: BinaryIO, group: pq.RowGroupMetaData, fields: list[str]) -> int:
    """Rows of a batch, 1 to 256. A row that refers to a dictionary may be as large as the whole dictionary."""
    n_rows = max(group.num_rows, 1)
    n_bytes, most_bytes = 1, 1
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema.split(".")[0] in fields:
            n_bytes += column.total_uncompressed_size
            most_bytes += column.num_values * _dictionary_bytes(stream, column)
    return max(1, min(_BATCH_ROWS, _USUAL_BYTES * n_rows // n_bytes, _MOST_BYTES * n_rows // most_bytes))


def _dictionary_bytes(stream: BinaryIO, column: pq.ColumnChunkMetaData) -> int:
    """The uncompressed size of a column chunk's dictionary, which only the header of its page tells; 0: none."""
    if not column.has_dictionary_page or column.dictionary_page_offset is None:
        return 0
    stream.seek(column.dictionary_page_offset)
    header = stream.read(16)
    # Thrift's compact protocol: field 1 (i32, the kind of page), field 2 (i32, the size).
    if len(header) < 16 or header[0] != _I32 or header[2] != _I32:
        return 0
    size = 0
    for place, byte in enumerate(header[3:8]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    return size >> 1  # zigzag
