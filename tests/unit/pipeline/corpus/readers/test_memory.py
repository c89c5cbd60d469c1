"""Small files that become huge when they are unpacked or parsed: rejects, in bounded memory."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.pipeline.corpus.json_line import MAX_VALUES
from logitlake.pipeline.corpus.streams import MAX_LINE_BYTES

MOST_MIB = 800
READ = """
import json, resource, sys
from logitlake.pipeline.settings.models import CorpusSettings
settings = CorpusSettings(name="c", path=sys.argv[1], **json.loads(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcomes = [str(getattr(item, "reason", "document")) for item in settings.read()]
print(json.dumps([outcomes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def outcomes_and_mib(path: Path, **settings: object) -> tuple[list[str], int]:
    """What the items of a corpus are, and by how many MiB another process grew to read them."""
    call = [sys.executable, "-c", READ, str(path), json.dumps(settings)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    outcomes, mib = json.loads(done.stdout)
    return outcomes, mib


def zstd_frame(*, window_log: int, n_bytes: int, last: bytes = b"") -> bytes:
    """A frame of one repeated letter: 4 bytes for each 128 KiB, then a raw block."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    block = (1 << 1 | 2**17 << 3).to_bytes(3, "little") + b"a"
    return header + block * (n_bytes // 2**17) + (1 | len(last) << 3).to_bytes(3, "little") + last


def gzip_of(n_bytes: int) -> bytes:
    """Members of one repeated letter."""
    return gzip.compress(b"a" * 2**24) * (n_bytes // 2**24)


GOOD = b'{"text": "good"}\n'

FILES: dict[str, tuple[str, Callable[[], bytes], list[str]]] = {
    "window of 2 GiB": ("a.jsonl.zst", lambda: zstd_frame(window_log=31, n_bytes=2**31), ["corrupt_file"]),
    "line of 2 GiB, zstd": (
        *("a.jsonl.zst", lambda: zstd_frame(window_log=20, n_bytes=2**31, last=b"\n" + GOOD)),
        ["too_long", "document"],
    ),
    "line of 1 GiB, gzip": (
        "a.jsonl.gz",
        lambda: gzip_of(2**30) + gzip.compress(b"\n" + GOOD),
        ["too_long", "document"],
    ),
    "10 million lists": ("a.jsonl", lambda: b'{"x": [' + b"[]," * 10**7 + b"[]]}\n" + GOOD, ["too_long", "document"]),
    "10 million keys": (
        *("a.jsonl", lambda: b"{" + b"".join(b'"%d":0,' % i for i in range(4 * 10**6)) + b'"text":"t"}\n' + GOOD),
        ["too_long", "document"],
    ),
    "the longest line, four bytes a character": (
        *("a.jsonl", lambda: '{{"text": "{}🙂"}}\n'.format("a" * (MAX_LINE_BYTES - 20)).encode() + GOOD),
        ["document", "document"],
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case.endswith("gzip") else ()) for case in FILES]
)
def test_a_file_that_grows_when_it_is_unpacked_or_parsed_takes_bounded_memory(tmp_path: Path, case: str) -> None:
    name, content, expected = FILES[case]
    (tmp_path / name).write_bytes(content())
    outcomes, mib = outcomes_and_mib(tmp_path, kind="jsonl", max_reject_share=1)
    assert outcomes == expected
    assert mib < MOST_MIB


def test_a_text_file_of_any_size_takes_bounded_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**36)
    (tmp_path / "b.txt").write_text("good")
    outcomes, mib = outcomes_and_mib(tmp_path, kind="text")
    assert outcomes == ["too_long", "document"]
    assert mib < MOST_MIB


PARQUET_CASES = [
    "a value that 40 rows repeat",
    "the same without a type",
    "a text over the bound",
    "a list of nothing",
]


def parquet_tables() -> dict[str, tuple[Any, dict[str, Any], list[str]]]:
    """Columns by what is large in them, how they are written, and what comes of their rows."""
    letters = pa.array(["a" * 30 * 2**20])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), letters)
    nulls = pa.ListArray.from_arrays(pa.array([0, 2**27], pa.int32()), pa.nulls(2**27))
    dictionary = {"compression": "zstd", "dictionary_pagesize_limit": 2**30}
    long_text = pa.array(["a" * (MAX_LINE_BYTES + 1), "good"])
    return {
        "a value that 40 rows repeat": (repeated, dictionary, ["document"] * 40),
        "the same without a type": (repeated, dictionary | {"store_schema": False}, ["document"] * 40),
        "a text over the bound": (long_text, {"use_dictionary": False}, ["too_long", "document"]),
        "a list of nothing": (nulls.slice(0, 1), {}, ["too_long"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", PARQUET_CASES)
def test_a_parquet_file_that_grows_when_it_is_read_takes_bounded_memory(tmp_path: Path, case: str) -> None:
    column, options, expected = parquet_tables()[case]
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", **options)
    outcomes, mib = outcomes_and_mib(tmp_path, kind="parquet", max_reject_share=1)
    assert outcomes == expected
    assert mib < MOST_MIB


def test_the_bound_on_values_admits_what_it_says(tmp_path: Path) -> None:
    line = b'{"text": "t", "x": [' + b"0," * (MAX_VALUES - 4) + b"0]}\n"
    (tmp_path / "a.jsonl").write_bytes(line + line.replace(b"0]", b"0,0,0,0,0]"))
    outcomes, _ = outcomes_and_mib(tmp_path, kind="jsonl")
    assert outcomes == ["document", "too_long"]
