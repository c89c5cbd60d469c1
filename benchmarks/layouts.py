"""`python -m benchmarks.layouts`: ways to store targets and log-probabilities, in bytes, reading and SQL.

Every layout holds the same targets of the shared captured lake. `bytes` are those of one Parquet file (zstd 19) with
input ids, per token; `read` is pyarrow's reading of that file on one core; `explode` is DuckDB on one thread, which
sums all probabilities by token id over COPIES times the rows, as a share of the speed of a flat file (a row per
probability). All times are CPU time, the least of a few.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.sample import captured, in_batches
from benchmarks.target_measures import BATCH_TOKENS
from benchmarks.target_sample import target_sample
from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.targets.arrow_lists import nested_lists, running_sums
from logitlake.pipeline.targets.encoding import statistic_codes

COPIES = 20
_REPEATS = 4
_STEPS = (32, 256, 1024)
_DELTA = "DELTA_BINARY_PACKED"

_NESTED = """
    SELECT token_id, count(*), sum(coalesce(code / levels, tail)) FROM (
        SELECT levels, tail, unnest(ids) AS token_id, unnest(codes) AS code FROM (
            SELECT
                levels, ids, codes,
                (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0) AS tail
            FROM (SELECT levels, unnest(target_ids) AS ids, unnest(head_codes) AS codes FROM '{file}')
        )
    ) GROUP BY token_id
"""
_TWO_UNNESTS = """
    SELECT token_id, count(*), sum(code) FROM (
        SELECT unnest(ids) AS token_id, unnest(codes) AS code
        FROM (SELECT unnest(target_ids) AS ids, unnest(head_codes) AS codes FROM '{file}')
    ) GROUP BY token_id
"""
_SHARES = """
    SELECT token_id, count(*), sum(code / (levels * n)) FROM (
        SELECT levels, unnest(ids) AS token_id, unnest(codes) AS code, unnest(shares) AS n FROM '{file}'
    ) GROUP BY token_id
"""
_PROBABILITIES = """
    SELECT token_id, count(*), sum(p)
    FROM (SELECT unnest(ids) AS token_id, unnest(probabilities) AS p FROM '{file}') GROUP BY token_id
"""
_FLAT = "SELECT token_id, count(*), sum(probability) FROM '{file}' GROUP BY token_id"


def layouts(rows: pa.Table) -> dict[str, tuple[dict[str, pa.Array], dict[str, Any], str | None]]:
    """By name: columns, Parquet options, and the query that sums all probabilities (None: no usable one)."""
    row_offsets, offsets, ids = nested_lists(rows["target_ids"])
    _, code_offsets, codes = nested_lists(rows["head_codes"])
    n_ids, n_heads = np.diff(offsets), np.diff(code_offsets)
    levels = np.repeat(rows["levels"].to_numpy(), np.diff(row_offsets))
    residual = levels - np.diff(running_sums(codes)[code_offsets])
    slots = np.repeat(offsets[:-1] - code_offsets[:-1], n_heads) + np.arange(len(codes))
    all_codes, shares = np.repeat(residual, n_ids), np.repeat(np.maximum(n_ids - n_heads, 1), n_ids)
    all_codes[slots], shares[slots] = codes, 1
    probabilities = (all_codes / (np.repeat(levels, n_ids) * shares)).astype(np.float32)
    positions = np.arange(len(n_ids)) - np.repeat(row_offsets[:-1], np.diff(row_offsets))

    def per_entry(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets[row_offsets], pa.int32()), pa.array(values, kind))

    def per_position(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(row_offsets, pa.int32()), pa.array(values, pa.uint16()))

    flat_ids = per_entry(ids, pa.int32())
    heads = pa.ListArray.from_arrays(pa.array(code_offsets[row_offsets], pa.int32()), pa.array(codes, pa.uint16()))
    at = per_entry(np.repeat(positions, n_ids), pa.int32())
    delta = {"column_encoding": {"positions.list.element": _DELTA}}
    nested = {name: rows[name].combine_chunks() for name in ("target_ids", "head_codes")}
    return {
        "nested lists": (nested, _dictionaries("head_codes.list.element"), _NESTED),
        "flat ids, head codes, two counts a position": (
            {
                "n_heads": per_position(n_heads),
                "n_tails": per_position(n_ids - n_heads),
                "ids": flat_ids,
                "codes": heads,
            },
            _dictionaries("n_heads", "n_tails", "codes"),
            None,
        ),
        "flat ids, codes, shares, a position per entry": (
            {
                "positions": at,
                "ids": flat_ids,
                "codes": per_entry(all_codes, pa.uint16()),
                "shares": per_entry(shares, pa.uint16()),
            },
            _dictionaries("codes", "shares") | delta,
            _SHARES,
        ),
        "flat ids, float probabilities, a position per entry": (
            {"positions": at, "ids": flat_ids, "probabilities": per_entry(probabilities, pa.float32())},
            _dictionaries() | delta,
            _PROBABILITIES,
        ),
    }


def measure_layouts(rows: pa.Table, directory: Path) -> list[dict[str, Any]]:
    """A row of the table per layout."""
    shared = {name: rows[name].combine_chunks() for name in ("doc_id", "levels", "input_ids")}
    n_tokens = sum(rows["n_tokens"].to_pylist())
    options: dict[str, Any] = {"data_page_size": 8 << 20, "dictionary_pagesize_limit": 1 << 20, "store_schema": False}
    flat = _least(lambda: _ask(_FLAT, _flat_file(rows, directory)))
    found = []
    for name, (columns, own, query) in layouts(rows).items():
        table = pa.table({**shared, **columns})
        file, large = directory / "one.parquet", directory / "large.parquet"
        pq.write_table(table, file, compression="zstd", compression_level=19, **options, **own)
        read = _least(
            lambda file=file, columns=columns: pq.read_table(file, columns=["input_ids", *columns], use_threads=False)
        )
        explode = {}
        if query:
            pq.write_table(
                pa.concat_tables([table] * COPIES), large, compression="zstd", row_group_size=320, **options, **own
            )
            explode = {"explode_share": flat / _least(lambda large=large, query=query: _ask(query, large))}
            if query is _NESTED:
                explode["two_unnests_share"] = flat / _least(lambda large=large: _ask(_TWO_UNNESTS, large))
        bytes_per_token = file.stat().st_size / n_tokens
        found.append({"layout": name, "bytes": bytes_per_token, "read_mtokens": n_tokens / read / 1e6, **explode})
    return found


def measure_steps(nll_P: np.ndarray) -> list[dict[str, float]]:
    """Bytes per target of log-probabilities in steps of 1/32 nat and finer, in a dictionary and as plain integers."""
    found = []
    for steps in _STEPS:
        codes_P = statistic_codes(nll_P, steps)
        sizes = {name: _column_bytes(codes_P, dictionary=name == "dictionary") for name in ("dictionary", "plain")}
        found.append({"steps_per_nat": steps, **{name: size / len(nll_P) for name, size in sizes.items()}})
    return found


def _column_bytes(codes_P: np.ndarray, *, dictionary: bool) -> int:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"data_page_size": 8 << 20, "dictionary_pagesize_limit": 1 << 20, "store_schema": False}
    table = pa.table({"codes": pa.array(codes_P, pa.uint16())})
    pq.write_table(table, buffer, compression="zstd", compression_level=19, use_dictionary=dictionary, **options)
    return int(pq.ParquetFile(buffer).metadata.row_group(0).column(0).total_compressed_size)


def _flat_file(rows: pa.Table, directory: Path) -> Path:
    """A row per probability, as a user would write it: its low bits are those of a float that nothing rounded."""
    path = directory / "flat.parquet"
    if not path.exists():
        columns, _, _ = layouts(rows)["flat ids, float probabilities, a position per entry"]
        probabilities = columns["probabilities"].flatten().to_numpy()
        noise = np.random.default_rng(0).uniform(-1 / 128, 1 / 128, len(probabilities)).astype(np.float32)
        lengths = np.diff(columns["ids"].offsets.to_numpy())
        table = pa.table(
            {
                "doc_id": pa.array(np.repeat(np.arange(len(lengths)), lengths)).cast(pa.string()).dictionary_encode(),
                "position": columns["positions"].flatten(),
                "token_id": columns["ids"].flatten(),
                "probability": probabilities + noise,
            }
        )
        pq.write_table(pa.concat_tables([table] * COPIES), path, compression="zstd", row_group_size=122_880)
    return path


def _dictionaries(*names: str) -> dict[str, Any]:
    return {"use_dictionary": [f"{name}.list.element" for name in names] or False}


def _ask(query: str, file: Path) -> None:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(query.format(file=file)).fetchall()


def _least(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Print both tables, and one line of JSON."""
    _, sequences, teacher = target_sample(quick=False)
    batches = in_batches(sequences, BATCH_TOKENS)
    nlls = [batch_targets(teacher, batch, [], temperature=1.0, seed=0)[1].nll for batch in batches]
    with tempfile.TemporaryDirectory() as directory:
        found = {
            "layouts": measure_layouts(captured(held_out=False), Path(directory)),
            "steps": measure_steps(np.concatenate(nlls)),
        }
    for rows in found.values():
        for row in rows:
            print(
                " | ".join(
                    f"{name} {value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items()
                )
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
