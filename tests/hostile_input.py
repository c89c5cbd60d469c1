"""Hostile input: readers, settings, SQL, shards, catalogs: `python -m tests.hostile_input --cases 10000 --seed 0`.

A case is made from its number and the seed alone. Each one ends in documents, rejects, an answer, or an error of ours;
anything else is printed with what repeats it.
"""

import argparse
import gzip
import io
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import ReadSession
from tests.hostile_lake import catalog_case, shard_case

# Python and its libraries map about 2 GiB before the first case.
MAX_ADDRESS_BYTES = 6 * 2**30
QUERY_SECONDS = 5

CHAT = [{"role": "user", "content": "hi"}, {"from": "gpt", "value": "ho", "x": [1.5, None, {"a": "é🙂"}]}]
JSONL = [
    json.dumps({"text": "one", "m": CHAT}).encode() + b'\n{"text": "two"}\n',
    json.dumps({"m": json.dumps(CHAT)}).encode() + b"\n\n[]\nnull\n",
    b'\xef\xbb\xbf{"text": "\\ud83d\\ude42", "text ": 1e400, "m": [[]]}\r\n{"te\\u0078t": "x", "text": "y"}',
]
YAML = [
    b"lake: {path: a, held_out: {share: 0.1}}\ncorpora:\n  - {name: n, kind: jsonl, path: p, glob: ['*.x']}\n",
    b"teacher: {model: m}\ntarget: {sparsifier: top_k, k: 5}\nevaluation: &t {max_tokens: 2}\n",
    b"schedule: {capture: '0 2 * * *', timezone: UTC}\nstudent: {source: teacher, layers: 2, lora: {rank: 4}}\n",
]
SQL = [
    b"SELECT corpus, count(*) FROM sequences GROUP BY ALL ORDER BY 2 DESC LIMIT 5",
    b"WITH a AS (SELECT unnest([1, 2]) AS b) SELECT * FROM a JOIN documents ON true WHERE b > 1e5 OR source LIKE '%x'",
    b"SELECT * FROM dictionary WHERE name = 'sequences' -- comment\n/* other */",
]
# Inputs that broke a command once: every run begins with them.
KEPT_YAML = [
    b"lake: {path: 2024-02-30}\n",
    b"lake: " + b"[" * 5000,
    b"capture: {max_tokens: !!bool x}\n",
    b"lake: &a [*a]",
]
KEPT_SQL = ["SELECT * FROM dictionary WHERE name = 'aa" + "\ufffd+\ufffd]E\ufffd)" * 6000]
PIECES = [
    *(
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b"\n",
        b"'",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"&a ",
        b"*a",
        b"!!int ",
    ),
    *(b"2024-02-30", b".inf", b".nan", b"-1", b"9" * 400, b"1e999", b"null", b"~", b"<<: ", b"\t", b"? ", b"| ", b"%"),
    *(b"SELECT ", b" FROM ", b"read_text('/etc/passwd')", b"ATTACH 'x'", b";", b"(" * 40, b"--", b"$$", b"range(10)"),
    *(b'"role"', b'"content"', b'"from"', b'"value"', b'"human"', b'"text"', b"true", b"\xf0\x9f\x99\x82"),
]


def mutated(noise: random.Random, samples: Sequence[bytes]) -> bytes:
    """A sample with some places replaced, removed, repeated, or filled from PIECES or another sample."""
    content = bytearray(noise.choice(samples))
    for _ in range(noise.choice((0, 1, 1, 2, 5, 20))):
        start = noise.randrange(len(content) + 1)
        end = min(len(content), start + noise.randrange(1, 30))
        match noise.randrange(6):
            case 0:
                content[start:end] = noise.randbytes(end - start)
            case 1:
                content[start:start] = noise.choice(PIECES)
            case 2:
                del content[start:end]
            case 3:
                content[start:start] = bytes(content[start:end]) * noise.choice((2, 50, 3000))
            case 4:
                other = noise.choice(samples)
                content[start:end] = other[noise.randrange(len(other)) :][:40]
            case 5:
                content[start:start] = noise.choice(PIECES) * noise.choice((10, 2000))
        del content[2**20 :]
    return bytes(content)


def parquet_bytes(noise: random.Random) -> bytes:
    """A file of texts and chats in some types and encodings."""
    columns = {"text": ["one", None, "x" * 300], "m": [CHAT[:1], [], None], "n": [[[("role", "user")]], [], None]}
    kind = noise.choice((pa.string(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string())))
    arrays = {name: pa.array(values) for name, values in columns.items()}
    table = pa.table({**arrays, "text": arrays["text"].cast(kind)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=noise.choice(("none", "zstd", "snappy")), row_group_size=2)
    return buffer.getvalue()


def corpus_case(noise: random.Random, directory: Path, _: ReadSession) -> None:
    """Read one file of a kind by its text, or by its chats."""
    kind, suffix = noise.choice((("jsonl", ""), ("jsonl", ".gz"), ("jsonl", ".zst"), ("text", ""), ("parquet", "")))
    content = mutated(noise, JSONL)
    if kind == "parquet":
        content = parquet_bytes(noise)
    elif suffix:
        content = (gzip.compress if suffix == ".gz" else zstandard.compress)(content)
    if kind == "parquet" or (suffix and noise.random() < 0.7):
        content = mutated(noise, [content])
    path = directory / f"a.{kind}{suffix}"
    path.write_bytes(content)
    field = noise.choice((None, "m", "n"))
    # Of a damaged footer with any number of rows, the first ones are enough.
    reader = CorpusSettings(name="c", kind=kind, path=str(directory), messages_field=field, reject_grace=1000).read()
    try:
        for number, item in enumerate(reader):
            assert pa.array([item.source], pa.string())
            if number > 1000:
                break
    finally:
        path.unlink()


def settings_case(noise: random.Random, directory: Path, _: ReadSession) -> None:
    """Load a settings file, or a plain one with overrides."""
    overrides = []
    content = mutated(noise, YAML)
    if noise.random() < 0.3:
        key = noise.choice(("lake.path", "corpora.0.path", "target", "x"))
        content, overrides = b"", [f"{key}={content.decode(errors='surrogateescape')}"]
    load_settings(directory, content, overrides)


def load_settings(directory: Path, content: bytes, overrides: list[str]) -> None:
    """Load the settings of a file."""
    path = directory / "logitlake.yaml"
    path.write_bytes(content)
    try:
        load_config(path, overrides)
    finally:
        path.unlink()


def sql_case(noise: random.Random, _: Path, session: ReadSession) -> None:
    """Ask a query that is text."""
    session.ask(mutated(noise, SQL).decode(errors="replace"), timeout=QUERY_SECONDS)


Case = Callable[[random.Random, Path, ReadSession], None]
# A catalog takes a second to open: of fifty cases one is a catalog.
CASES: tuple[Case, ...] = (
    *(corpus_case,) * 20,
    *(settings_case,) * 10,
    *(sql_case,) * 11,
    *(shard_case,) * 8,
    catalog_case,
)


def finding_of(call: Callable[[], object]) -> list[str] | None:
    """None if the call ends well; no error if it ends in one of ours; else the error."""
    try:
        call()
    except LogitlakeError:
        return []
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:300]}"]
    return None


def run(n_cases: int, seed: int, first: int) -> tuple[list[str], Counter[str]]:
    """Findings of the cases, and how many of each kind gave something else than an error."""
    findings = []
    accepted = Counter({case.__name__: 0 for case in set(CASES)})
    with tempfile.TemporaryDirectory() as root:
        location = LakeLocation.resolve(Path(root) / "lake")
        Lake.create(location, held_out_salt="s", held_out_share=0.0).close()
        directory = Path(root) / "case"
        directory.mkdir()
        with ReadSession(location, memory_limit="1GB") as session:
            kept = [partial(load_settings, directory, content, []) for content in KEPT_YAML]
            kept += [partial(session.ask, query, timeout=QUERY_SECONDS) for query in KEPT_SQL]
            for number, call in enumerate(kept):
                findings += [f"kept {number}: {error}" for error in finding_of(call) or []]
            for number in range(first, first + n_cases):
                noise = random.Random(f"{seed} {number}")
                case = noise.choice(CASES)
                errors = finding_of(partial(case, noise, directory, session))
                if errors is None:
                    accepted[case.__name__] += 1
                else:
                    findings += [f"{case.__name__} {number}: {error}" for error in errors]
    return findings, accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings, accepted = run(options.cases, options.seed, options.first)
    for finding in findings:
        print(finding, f"(--seed {options.seed} --cases 1 --first {finding.split()[1].rstrip(':')})")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    counts = {"cases": options.cases, "seed": options.seed, "findings": len(findings)}
    print(json.dumps({**counts, "accepted": accepted, "grown_mib": grown}))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
