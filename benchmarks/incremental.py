"""`benchmarks.incremental`: planning over a corpus that the lake holds already, over reading, parsing and hashing it.

The peer does the least that anybody must: a line at a time, `json.loads`, `hashlib.sha256` of the text. Planning opens
the lake, takes the ids that it holds, reads the same file through the corpus reader and looks every document up. The
documents were registered without a capture: planning asks for no more of them.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from benchmarks.captured import CACHE, benchmark_config
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.reporting import Reach, Summary, Table
from logitlake.flows.capture.preparation import Prepared, prepare
from logitlake.pipeline.capture.planning import count_plan
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.compaction import merge_small_tables
from logitlake.storage.writing.commits import unit_id_of
from logitlake.storage.writing.known_documents import KnownDocuments

_CORPUS = "corpus.jsonl"
_MEAN_CHARACTERS = 2000
# Standard deviation of the logarithm of the length: a tenth of the documents is longer than 4,400 characters.
_SPREAD = 1.0
_DOCUMENTS_PER_UNIT = 2000
_UNITS_PER_TRANSACTION = 50


def sizes_of(quick: bool) -> tuple[int, ...]:
    """Numbers of documents that are planned, the last of them the one that the figures speak of."""
    return (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)


def plan_known(documents: int) -> Measurements:
    """Plan a corpus whose documents are all stored. Fails if one of them is planned."""
    prepared = _prepared(documents)
    began = time.perf_counter()
    with Lake.open(LakeLocation.resolve(_directory(documents) / "lake")) as lake:
        summary = count_plan(prepared.plan(KnownDocuments(lake, prepared.recipe.recipe_id)))
    seconds = time.perf_counter() - began
    if (summary.stored, summary.new, summary.rejected) != (documents, 0, 0):
        raise SystemExit(f"incremental: expected {documents} stored documents, found {summary}")
    return {"seconds": seconds, "microseconds_per_document": 1e6 * seconds / documents}


def parse_and_hash(documents: int) -> Measurements:
    """Read the file, parse every line and hash every text."""
    began = time.perf_counter()
    seen = 0
    with (_directory(documents) / "corpus" / _CORPUS).open("rb") as lines:
        for line in lines:
            hashlib.sha256(json.loads(line)["text"].encode()).hexdigest()
            seen += 1
    seconds = time.perf_counter() - began
    assert seen == documents
    return {"seconds": seconds, "microseconds_per_document": 1e6 * seconds / documents}


def arms(quick: bool) -> dict[str, Arm]:
    """Planning and its peer at every size."""
    measures = {"plan": plan_known, "parse and hash": parse_and_hash}
    return {
        f"{name} {documents:,}": Arm(partial(measure, documents))
        for documents in sizes_of(quick)
        for name, measure in measures.items()
    }


def prepare_inputs(quick: bool) -> None:
    """Make a corpus and a lake that knows it, for every size, once."""
    for documents in sizes_of(quick):
        directory = _directory(documents)
        if not directory.exists():
            print(f"benchmarks: making a corpus of {documents:,} documents, once", file=sys.stderr, flush=True)
            staged = directory.with_suffix(".tmp")
            shutil.rmtree(staged, ignore_errors=True)
            (staged / "corpus").mkdir(parents=True)
            ids = _write_corpus(staged / "corpus" / _CORPUS, documents)
            _register(staged / "lake", ids, _prepared(documents).recipe.recipe_id)
            staged.rename(directory)


def lengths_of(documents: int) -> np.ndarray:
    """Characters of every document: log-normal with a mean of 2,000, int64 [documents], at least 20."""
    random = np.random.default_rng(0)
    drawn = random.lognormal(np.log(_MEAN_CHARACTERS) - _SPREAD**2 / 2, _SPREAD, documents)
    return np.maximum(drawn, 20).astype(np.int64)


def _write_corpus(path: Path, documents: int) -> list[str]:
    """JSON Lines of passages of the demo's corpus, each with a heading of its own; returns their document ids."""
    text = "\n".join(
        item.content
        for settings in benchmark_config().corpora
        for item in settings.read()
        if hasattr(item, "content") and isinstance(item.content, str)
    )
    lengths = lengths_of(documents)
    starts = np.random.default_rng(1).integers(0, len(text) - int(lengths.max()), documents)
    ids = []
    with path.open("w", encoding="utf-8") as file:
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            passage = f"Passage {number}\n{text[start : start + length]}"
            file.write(json.dumps({"id": number, "text": passage}) + "\n")
            ids.append(document_id(passage))
    return ids


def _register(directory: Path, doc_ids: list[str], recipe_id: str) -> None:
    """A lake that holds rows of these documents in `documents` and `document_sources`, as captures would leave them."""
    with Lake.create(LakeLocation.resolve(directory), held_out_salt="benchmarks", held_out_share=0.05) as lake:
        for rows, lines in _batches(doc_ids, recipe_id):
            with lake.transaction() as transaction:
                transaction.insert("documents", rows)
                transaction.insert("document_sources", lines)
        merge_small_tables(lake)


def _batches(doc_ids: list[str], recipe_id: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    step = _DOCUMENTS_PER_UNIT * _UNITS_PER_TRANSACTION
    for first in range(0, len(doc_ids), step):
        some = doc_ids[first : first + step]
        units = [
            unit_id_of(recipe_id, some[begin : begin + _DOCUMENTS_PER_UNIT])
            for begin in range(0, len(some), _DOCUMENTS_PER_UNIT)
        ]
        rows = {
            "doc_id": some,
            "recipe_id": [recipe_id] * len(some),
            "unit_id": [units[number // _DOCUMENTS_PER_UNIT] for number in range(len(some))],
            "n_tokens": pa.array(np.full(len(some), 500), pa.int64()),
            "n_sequences": pa.array(np.ones(len(some)), pa.int32()),
        }
        sources = {
            "doc_id": some,
            "corpus": ["passages"] * len(some),
            "source": [_CORPUS] * len(some),
            "line": pa.array(range(first + 1, first + 1 + len(some)), pa.int64()),
        }
        yield pa.table(rows), pa.table(sources)


def _directory(documents: int) -> Path:
    return CACHE / f"known-{documents}"


def _prepared(documents: int) -> Prepared:
    """The demo's recipe over the corpus of so many documents."""
    directory = _directory(documents) / "corpus"
    corpus = CorpusSettings(name="passages", kind="jsonl", path=str(directory))
    return prepare(benchmark_config().model_copy(update={"corpora": (corpus,)}))


def summarise(runs: Runs, quick: bool) -> Summary:
    """Time per document and peak memory at every size, and their ratio."""
    sizes = sizes_of(quick)
    ratio = {n: runs.ratio("seconds", f"plan {n:,}", f"parse and hash {n:,}") for n in sizes}
    per_document = {
        name: [runs.median(f"{name} {n:,}", "microseconds_per_document") for n in sizes]
        for name in ("plan", "parse and hash")
    }
    rows = [
        [
            f"{n:,}",
            runs.median(f"plan {n:,}", "seconds"),
            runs.median(f"parse and hash {n:,}", "seconds"),
            ratio[n],
            per_document["plan"][number],
            runs.median(f"plan {n:,}", "peak_mb"),
        ]
        for number, n in enumerate(sizes)
    ]

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for name, values in per_document.items():
            axes.plot(sizes, values, marker="o", label=name)
        axes.set(xscale="log", xlabel="documents", ylabel="microseconds per document", ylim=(0, None))
        axes.legend()

    last = sizes[-1]
    return Summary(
        figures={"vs_parse_and_hash": ratio[last], "peak_mb": runs.median(f"plan {last:,}", "peak_mb")},
        tables=[
            Table(
                "Planning when everything is known",
                ["documents", "plan s", "json + sha256 s", "ratio", "µs/document", "peak MB"],
                rows,
            )
        ],
        plot=plot,
    )


BENCHMARK = Benchmark(
    name="incremental",
    title="A corpus that is known already: planning over parsing and hashing",
    arms=arms,
    summarise=summarise,
    prepare=prepare_inputs,
    reach=(Reach("vs_parse_and_hash", "at most", 2.0), Reach("peak_mb", "at most", 1000)),
    rounds=3,
    quick_rounds=3,
)

if __name__ == "__main__":
    run(BENCHMARK)
