"""`benchmarks.reader`: shards to training batches on one core, over pyarrow reading the same columns of the same files.

The reader's time is that of an epoch: rows fetched through the lake (filter, held-out rule and deletes honoured),
shuffled, decoded to probabilities and padded to batches of tensors. The peer only decompresses columns into Arrow.
"""

import time

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.lakes import FEW, lake_with, many_of, tokens_of
from benchmarks.reporting import Reach, Summary, Table
from logitlake.pipeline.reading.batches import TARGET_COLUMNS
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.writing.recipes import find_recipe

_BATCH_SEQUENCES = 8
_HALF = "doc_id < '8'"
_ARMS = {
    "reader": "batches",
    "reader, half the documents": "batches, where doc_id < '8'",
    "reader, many shards": "batches, the same tokens in many shards",
    "read_table": "pyarrow.parquet.read_table",
}


def read_epoch(shards: int, *, quick: bool, where: str | None = None) -> Measurements:
    """One epoch of batches of the lake with so many shards: tokens, seconds of the epoch and of finding the row set."""
    import torch

    torch.set_num_threads(1)
    location = lake_with(shards, quick=quick)
    with Lake.open(location) as lake:
        began = time.perf_counter()
        row_set = resolve_row_set(lake, recipe_id=find_recipe(lake)[0], where=where)
        found, spent = time.perf_counter(), time.process_time()
        reader = RowSetReader(row_set, lake_fetch(lake, row_set), batch_sequences=_BATCH_SEQUENCES)
        tokens = sum(batch.n_tokens for batch in reader)
        seconds, spent = time.perf_counter() - found, time.process_time() - spent
    assert tokens == row_set.n_tokens
    return {**_speeds(tokens, seconds, spent), "seconds_to_find": found - began}


def read_columns(*, quick: bool) -> Measurements:
    """Every shard by `pyarrow.parquet.read_table`, the columns that a batch is made of, one file at a time."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    data = lake_with(FEW, quick=quick).data_directory
    assert data is not None
    files = sorted((data / "store" / "sequences").rglob("*.parquet"))
    began, spent = time.perf_counter(), time.process_time()
    tokens = 0
    for file in files:
        table = pq.read_table(file, columns=list(TARGET_COLUMNS), use_threads=False, partitioning=None)
        tokens += sum(table["n_tokens"].to_pylist())
    return _speeds(tokens, time.perf_counter() - began, time.process_time() - spent)


def _speeds(tokens: int, seconds: float, spent: float) -> Measurements:
    """By the clock, and by the processor time of all threads: that one is the same on a busy machine."""
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "tokens_per_processor_s": tokens / spent,
    }


def arms(quick: bool) -> dict[str, Arm]:
    """The reader over few and over many shards and over half of the documents, and the peer; each on one core."""
    measures = (
        lambda: read_epoch(FEW, quick=quick),
        lambda: read_epoch(FEW, quick=quick, where=_HALF),
        lambda: read_epoch(many_of(quick), quick=quick),
        lambda: read_columns(quick=quick),
    )
    return {name: Arm(measure, cores=1) for name, measure in zip(_ARMS, measures, strict=True)}


def prepare(quick: bool) -> None:
    """Make both lakes."""
    for shards in (FEW, many_of(quick)):
        lake_with(shards, quick=quick)


def summarise(runs: Runs, quick: bool) -> Summary:
    """Tokens per second and peak memory of every arm; the ratios are of the rounds."""
    names = list(_ARMS)
    speed = {name: runs.median(name, "tokens_per_s") for name in names}
    peak = {name: runs.median(name, "peak_mb") for name in names}
    rows = [
        [
            _ARMS[name],
            speed[name],
            runs.ratio("tokens_per_s", name, "read_table"),
            runs.ratio("tokens_per_processor_s", name, "read_table"),
            peak[name],
            runs.spread(name, "seconds"),
        ]
        for name in names
    ]

    def plot(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        left.barh(names, [speed[name] / 1e6 for name in names])
        left.set_xlabel("million tokens per second, one core")
        right.barh(names, [peak[name] for name in names], color="tab:orange")
        right.set_xlabel("peak memory, MB")
        left.invert_yaxis()

    return Summary(
        figures={
            "vs_parquet": runs.ratio("tokens_per_s", "reader", "read_table"),
            "tokens_per_s": speed["reader"],
            "memory_many_over_few_shards": runs.ratio("peak_mb", "reader, many shards", "reader"),
        },
        tables=[
            Table(
                f"{tokens_of(quick):,} tokens in {FEW} shards, and in {many_of(quick):,}",
                ["arm", "tokens/s", "over read_table", "by processor time", "peak MB", "slowest/fastest round"],
                rows,
            )
        ],
        plot=plot,
    )


BENCHMARK = Benchmark(
    name="reader",
    title="Reading a row set into training batches, on one core",
    arms=arms,
    summarise=summarise,
    prepare=prepare,
    reach=(
        Reach("vs_parquet", "at least", 0.5),
        Reach("tokens_per_s", "at least", 3e6),
        Reach("memory_many_over_few_shards", "at most", 1.2),
    ),
)

if __name__ == "__main__":
    run(BENCHMARK)
