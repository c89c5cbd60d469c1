"""The first records of a file, and how many it holds: exactly where that is cheap, else from its size."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from logitlake.pipeline.corpus.batch_size import rows_per_batch
from logitlake.pipeline.corpus.json_line import RepeatedKeyError, TooManyValuesError, parse_json
from logitlake.pipeline.corpus.streams import CORRUPT_STREAM, lines, open_regular, open_stream

_SAMPLED_RECORDS = 100
# Of a larger file the beginning is read, uncompressed.
_READ_BYTES = 16 * 2**20
_COMPRESSION = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BAD_LINE = (orjson.JSONDecodeError, RepeatedKeyError, TooManyValuesError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Records that are JSON objects or rows, and the number of records of the whole file."""

    records: tuple[Mapping[str, Any], ...]
    n_records: int
    is_exact: bool


class NoSampleError(Exception):
    """The file can't be sampled; the message says why."""


def sample_jsonl(path: Path) -> Sample:
    """The first records of a JSON Lines file. Raises NoSampleError."""
    records, n_lines, n_bytes, ended = list[Mapping[str, Any]](), 0, 0, True
    try:
        with open_stream(path) as stream:
            for line in lines(stream):
                n_bytes += line if isinstance(line, int) else len(line)
                n_lines += isinstance(line, int) or not line.isspace()
                if isinstance(line, bytes) and len(records) < _SAMPLED_RECORDS:
                    records += _object(line.removeprefix(_BYTE_ORDER_MARK) if n_lines == 1 else line)
                if n_bytes >= _READ_BYTES:
                    ended = False
                    break
        size = path.stat().st_size
    except (OSError, *CORRUPT_STREAM) as error:
        raise NoSampleError(f"can't be read ({getattr(error, 'strerror', None) or error})") from None
    if not ended:
        packed = _COMPRESSION if path.suffix in (".gz", ".zst", ".zstd") else 1
        n_lines = max(n_lines, round(n_lines * size * packed / n_bytes))
    return Sample(records=tuple(records), n_records=n_lines, is_exact=ended)


def sample_parquet(path: Path) -> Sample:
    """The first rows of a Parquet file, without columns that can hold no document. Raises NoSampleError."""
    try:
        with open_regular(path) as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
            n_rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
            names = [name for name in schema.names if schema.names.count(name) == 1 and _may_hold(schema.field(name))]
            if not n_rows or not names:
                return Sample(records=(), n_records=n_rows, is_exact=True)
            at_once = min(_SAMPLED_RECORDS, rows_per_batch(stream, parquet.metadata.row_group(0), names))
            batch = next(parquet.iter_batches(at_once, columns=names), None)
            records = tuple(batch.to_pylist()) if batch is not None else ()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise NoSampleError(f"can't be read as Parquet ({str(error).splitlines()[0]})") from None
    return Sample(records=records, n_records=n_rows, is_exact=True)


def begins_with_json_array(path: Path) -> bool:
    """Whether a file holds one JSON array, rather than a JSON object a line."""
    try:
        with open_regular(path) as stream:
            beginning = stream.read(2**12).removeprefix(_BYTE_ORDER_MARK).lstrip()
    except OSError:
        return False
    return beginning.startswith(b"[")


def begins_with_two_objects(path: Path) -> bool:
    """Whether the first two lines of a file are JSON objects: one alone may be some program's settings."""
    try:
        with open_regular(path) as stream:
            first = list(islice((line for line in lines(stream) if line != b"\n"), 2))
    except OSError:
        return False
    objects = [_object(line.removeprefix(_BYTE_ORDER_MARK)) for line in first if isinstance(line, bytes)]
    return len(objects) == 2 and all(objects)


def _object(line: bytes) -> list[Mapping[str, Any]]:
    """The object of a line in a list; empty for anything else."""
    try:
        value = parse_json(line)
    except _BAD_LINE:
        return []
    return [value] if isinstance(value, dict) else []


def _may_hold(field: pa.Field) -> bool:
    """Whether a column can hold text or messages."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    # Bytes may be text, but are nearly always pictures or sound, which are large.
    nested = pa.types.is_nested(kind) and "binary" not in str(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or nested
