"""`benchmarks.reader`: shards to training batches on one core, over pyarrow reading the same columns of the same files.

The reader's time is that of an epoch: rows fetched through the lake (filter, held-out rule and deletes honoured),
shuffled, decoded to probabilities and padded to batches of tensors. The peer only decompresses columns into Arrow.
Epochs after the first are read once more from a local copy of decoded rows. Opening is measured in processor seconds,
from an attached lake to the moment when the first rows are asked for, and so is attaching the lake.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from benchmarks.captured import CACHE
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.lakes import FEW, lake_with, many_of, tokens_of
from benchmarks.reporting import Reach, Summary, Table
from logitlake.pipeline.reading.batches import TARGET_COLUMNS
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set
from logitlake.storage.writing.recipes import find_recipe

_BATCH_SEQUENCES = 8
_HALF = "doc_id < '8'"
_ARMS = {
    "reader": "batches, first epoch",
    "copied": "batches, first epoch, which makes a local copy",
    "later": "batches, later epochs, from the local copy",
    "reader, half the documents": "batches, where doc_id < '8'",
    "reader, many shards": "batches, the same tokens in many shards",
    "read_table": "pyarrow.parquet.read_table",
}


def read_epoch(shards: int, *, quick: bool, where: str | None = None) -> Measurements:
    """One epoch of batches of the lake with so many shards."""
    with _opened(shards, quick, where) as (lake, row_set):
        return _epoch(RowSetReader(row_set, lake_fetch(lake, row_set), batch_sequences=_BATCH_SEQUENCES))


def read_copied(*, quick: bool, later: bool) -> Measurements:
    """The first epoch, which makes a local copy; `later`: the one after it, which reads the copy."""
    with _opened(FEW, quick) as (lake, row_set), tempfile.TemporaryDirectory(dir=CACHE) as directory:
        reader = RowSetReader(
            row_set,
            lake_fetch(lake, row_set),
            batch_sequences=_BATCH_SEQUENCES,
            local_copy=LocalCopy.open(Path(directory), lake),
        )
        first = _epoch(reader)
        return _epoch(reader) if later else first


def open_rows(*, quick: bool) -> Measurements:
    """Processor seconds of attaching a lake, and from there to the moment when a reader asks for its first rows."""
    import torch

    torch.set_num_threads(1)
    asked: list[float] = []
    location = lake_with(FEW, quick=quick)
    began = time.process_time()
    with Lake.open(location) as lake:
        attached = time.process_time()
        row_set = resolve_row_set(lake, recipe_id=find_recipe(lake)[0])
        read = lake_fetch(lake, row_set)

        def watched(unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
            asked.append(time.process_time())
            return read(unit_ids, columns)

        next(iter(RowSetReader(row_set, watched, batch_sequences=_BATCH_SEQUENCES)))
    return {"attach_s": attached - began, "open_s": asked[0] - attached}


@contextmanager
def _opened(shards: int, quick: bool, where: str | None = None) -> Iterator[tuple[Lake, RowSet]]:
    import torch

    torch.set_num_threads(1)
    with Lake.open(lake_with(shards, quick=quick)) as lake:
        yield lake, resolve_row_set(lake, recipe_id=find_recipe(lake)[0], where=where)


def _epoch(reader: RowSetReader) -> Measurements:
    began, spent = time.perf_counter(), time.process_time()
    tokens = sum(batch.n_tokens for batch in reader)
    assert tokens == reader.row_set.n_tokens
    return _speeds(tokens, time.perf_counter() - began, time.process_time() - spent)


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
    """The reader with and without a copy, over many shards and half of the documents, opening, and the peer."""
    measures = (
        lambda: read_epoch(FEW, quick=quick),
        lambda: read_copied(quick=quick, later=False),
        lambda: read_copied(quick=quick, later=True),
        lambda: read_epoch(FEW, quick=quick, where=_HALF),
        lambda: read_epoch(many_of(quick), quick=quick),
        lambda: read_columns(quick=quick),
    )
    arms = {name: Arm(measure, cores=1) for name, measure in zip(_ARMS, measures, strict=True)}
    return {**arms, "open": Arm(lambda: open_rows(quick=quick), cores=1)}


def prepare(quick: bool) -> None:
    """Make both lakes."""
    for shards in (FEW, many_of(quick)):
        lake_with(shards, quick=quick)


def summarise(runs: Runs, quick: bool) -> Summary:
    """Tokens per second and peak memory of every arm; the ratios are of the rounds."""
    names = list(_ARMS)
    speed = {name: runs.median(name, "tokens_per_s") for name in names}
    by_processor = {name: runs.median(name, "tokens_per_processor_s") for name in names}
    peak = {name: runs.median(name, "peak_mb") for name in names}
    rows = [
        [
            _ARMS[name],
            speed[name],
            by_processor[name],
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
            "tokens_per_processor_s": by_processor["reader"],
            "later_tokens_per_processor_s": by_processor["later"],
            "open_processor_s": runs.median("open", "open_s"),
            "attach_processor_s": runs.median("open", "attach_s"),
            "memory_many_over_few_shards": runs.ratio("peak_mb", "reader, many shards", "reader"),
        },
        tables=[
            Table(
                f"{tokens_of(quick):,} tokens in {FEW} shards, and in {many_of(quick):,}",
                [
                    "arm",
                    "tokens/s",
                    "tokens per processor second",
                    "over read_table",
                    "by processor time",
                    "peak MB",
                    "slowest/fastest round",
                ],
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
        Reach("tokens_per_processor_s", "at least", 6e6),
        Reach("later_tokens_per_processor_s", "at least", 12e6),
        Reach("open_processor_s", "at most", 0.2),
        Reach("memory_many_over_few_shards", "at most", 1.2),
    ),
)

if __name__ == "__main__":
    run(BENCHMARK)
