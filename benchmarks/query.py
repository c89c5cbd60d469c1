"""`benchmarks.query`: questions to the lake, over DuckDB asking the same of one flat Parquet file.

The flat file is what a user would write: a row per cached probability with its keys, the position's statistics beside
it, int32 and float32 columns, zstd, DuckDB's own row groups. A teacher's numbers have all the bits of a float32, which
the cache has rounded away; a hash fills them in here, so that the file is as large as a user's. A second peer is kinder
to the flat form: a file of its own with a row per position, for the question about statistics.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
from matplotlib.figure import Figure

from benchmarks.captured import CACHE
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.lakes import FEW, lake_with, many_of, tokens_of
from benchmarks.reporting import Reach, Summary, Table
from logitlake.storage.lake.lake import Lake

_REPEATS = 5
_QUESTIONS = {
    "aggregate": """
        SELECT doc_id, count(*), avg(entropy), max(entropy), avg(logprob), count_if(logprob < -5)
        FROM {statistics} GROUP BY doc_id
    """,
    "explode": "SELECT token_id, count(*), sum(probability) FROM {targets} GROUP BY token_id",
    "lookup": "SELECT position, token_id, probability FROM {targets} WHERE doc_id = '{doc_id}'",
}
_A_DOCUMENT = "SELECT doc_id FROM documents ORDER BY md5(doc_id) LIMIT 1"

_FLAT_POSITIONS = """
    SELECT
        recipe_id, doc_id, window_index, position::INTEGER AS position, token_id AS next_id,
        (entropy + (hash(doc_id, position) % 65536 / 65536 - 0.5) / 32)::FLOAT AS entropy,
        (logprob + (hash(position, doc_id) % 65536 / 65536 - 0.5) / 32)::FLOAT AS logprob
    FROM statistics
"""
_FLAT_TARGETS = """
    SELECT
        recipe_id, doc_id, window_index, position::INTEGER AS position, next_id,
        (entropy_code / 32 + (hash(doc_id, position) % 65536 / 65536 - 0.5) / 32)::FLOAT AS entropy,
        (-(nll_code / 32) + (hash(position, doc_id) % 65536 / 65536 - 0.5) / 32)::FLOAT AS logprob,
        rank::INTEGER AS rank, code IS NOT NULL AS is_head, token_id,
        (coalesce(code / levels, tail) + (hash(doc_id, position, rank) % 65536 / 65536 - 0.5) / 64)::FLOAT
            AS probability
    FROM (
        SELECT
            * EXCLUDE (ids, codes),
            (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0) AS tail,
            unnest(ids) AS token_id, unnest(codes) AS code, unnest(range(1, len(ids) + 1)) AS rank
        FROM (
            SELECT
                recipe_id, doc_id, window_index, levels, start + i AS position, input_ids[i + 1] AS next_id,
                entropy_codes[i] AS entropy_code, nll_codes[i] AS nll_code, target_ids[i] AS ids, head_codes[i] AS codes
            FROM (SELECT *, unnest(range(1, n_tokens)) AS i FROM store.sequences)
        )
    )
"""


def ask_lake(shards: int, quick: bool) -> Measurements:
    """Seconds of each question to an open lake, and the bytes of its shards."""
    with Lake.open(lake_with(shards, quick=quick)) as lake:
        doc_id = lake.row(_A_DOCUMENT)["doc_id"]
        names = {"statistics": "statistics", "targets": "targets", "doc_id": doc_id}
        n_bytes = lake.row("SELECT sum(n_bytes)::BIGINT AS n_bytes FROM commits")["n_bytes"]
        return {**_seconds(lake.sql, names), "bytes": n_bytes}


def ask_flat(statistics: str, quick: bool) -> Measurements:
    """Seconds of each question to the flat file; `statistics` is what holds a row per position."""
    flat, positions = flat_files(quick)
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT doc_id FROM '{flat}' LIMIT 1 OFFSET 1000000").fetchone()
        assert found is not None
        relation = statistics.format(flat=f"'{flat}'", positions=f"'{positions}'")
        names = {"statistics": relation, "targets": f"'{flat}'", "doc_id": found[0]}
        measured = _seconds(lambda sql: connection.execute(sql).to_arrow_table(), names)
    return {**measured, "bytes": flat.stat().st_size, "bytes_of_positions": positions.stat().st_size}


def flat_files(quick: bool) -> tuple[Path, Path]:
    """The flat file with a row per probability, and the one with a row per position, made the first time."""
    stem = f"flat-{tokens_of(quick) // 10**6}M"
    files = (CACHE / f"{stem}.parquet", CACHE / f"{stem}-positions.parquet")
    for file, select in zip(files, (_FLAT_TARGETS, _FLAT_POSITIONS), strict=True):
        if not file.exists():
            staged = file.with_suffix(".tmp")
            with Lake.open(lake_with(FEW, quick=quick)) as lake:
                lake.connection.execute(f"COPY ({select}) TO '{staged}' (FORMAT parquet, COMPRESSION zstd)")
            staged.rename(file)
    return files


def _seconds(ask: Callable[[str], Any], names: dict[str, str]) -> Measurements:
    """The median of five answers to each question, after one that is not counted."""
    measured = {}
    for question, sql in _QUESTIONS.items():
        taken = []
        for _ in range(_REPEATS + 1):
            began = time.perf_counter()
            ask(sql.format(**names))
            taken.append(time.perf_counter() - began)
        measured[question] = median(taken[1:])
    return measured


def arms(quick: bool) -> dict[str, Arm]:
    """The lake with few and with many shards, and the flat file alone and with a second one beside it."""
    return {
        "few": Arm(partial(ask_lake, FEW, quick)),
        "many": Arm(partial(ask_lake, many_of(quick), quick)),
        "flat": Arm(partial(ask_flat, "(SELECT * FROM {flat} WHERE rank = 1)", quick)),
        "flat, two files": Arm(partial(ask_flat, "{positions}", quick)),
    }


def prepare(quick: bool) -> None:
    """Make both lakes and both files."""
    for shards in (FEW, many_of(quick)):
        lake_with(shards, quick=quick)
    flat_files(quick)


def summarise(runs: Runs, quick: bool) -> Summary:
    """Seconds of every question to every arm; a ratio above 1 says that the lake is faster than the flat file."""
    labels = {"few": f"lake, {FEW} shards", "many": f"lake, {many_of(quick):,} shards", "flat": "one flat file"}
    labels["flat, two files"] = "flat files, one of them by position"
    seconds = {question: {arm: runs.median(arm, question) for arm in labels} for question in _QUESTIONS}
    rows: list[list[Any]] = [
        [
            labels[arm],
            *(seconds[question][arm] for question in _QUESTIONS),
            runs.median(arm, "bytes") / tokens_of(quick),
        ]
        for arm in labels
    ]
    rows[-1][-1] += runs.median("flat", "bytes_of_positions") / tokens_of(quick)
    versus = [
        [f"{labels[arm]} over {labels[peer]}", *(runs.ratio(question, peer, arm) for question in _QUESTIONS)]
        for arm in ("few", "many")
        for peer in ("flat", "flat, two files")
    ]

    def plot(figure: Figure) -> None:
        for axes, question in zip(figure.subplots(1, len(_QUESTIONS)), _QUESTIONS, strict=True):
            axes.bar(
                ["few", "many", "flat", "two"],
                [seconds[question][arm] for arm in labels],
                color=["C0", "C0", "C1", "C1"],
            )
            axes.set_title(question)
            axes.set_ylabel("seconds")

    return Summary(
        figures={
            "aggregate_vs_flat": runs.ratio("aggregate", "flat", "few"),
            "explode_vs_flat": runs.ratio("explode", "flat", "few"),
            "bytes_vs_flat": runs.ratio("bytes", "few", "flat"),
            "lookup_growth": runs.ratio("lookup", "many", "few"),
        },
        tables=[
            Table(f"{tokens_of(quick):,} cached tokens, seconds", ["arm", *_QUESTIONS, "bytes/token"], rows),
            Table("Speed over the flat form", ["arm", *_QUESTIONS], versus),
        ],
        plot=plot,
    )


BENCHMARK = Benchmark(
    name="query",
    title="Questions to the lake over the same to a flat Parquet file",
    arms=arms,
    summarise=summarise,
    prepare=prepare,
    reach=(
        Reach("aggregate_vs_flat", "at least", 0.5),
        Reach("explode_vs_flat", "at least", 0.5),
        Reach("bytes_vs_flat", "at most", 0.2),
        Reach("lookup_growth", "at most", 2.0),
    ),
    rounds=3,
    quick_rounds=2,
)

if __name__ == "__main__":
    run(BENCHMARK)
