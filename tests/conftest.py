"""Fixtures that several rooms use: a tiny model, a tiny tokenizer, and rows of the cache made from plain lists."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from logitlake.storage.row_sets.row_set import RowSet
from logitlake.storage.schema.sequences import SEQUENCES, with_checksums
from tests.quick_duckdb import connect_quickly
from tests.tiny_models import TINY_CONFIG, TINY_VOCAB, make_tiny_llama, write_tiny_teacher, write_tiny_tokenizer

if TYPE_CHECKING:
    from logitlake.pipeline.reading.reader import RowSetReader


class OneImportName(MetaPathFinder):
    """Refuses the rooms as packages of their own: the checkout is on the path, so each could be imported twice."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname in ("flows", "pipeline", "storage"):
            raise ImportError(f"a test imports {fullname}; expected: import logitlake.{fullname}")


sys.meta_path.insert(0, OneImportName())

duckdb.connect = connect_quickly

RowMaker = Callable[..., pa.Table]


def make_rows_of(
    lengths: Sequence[int],
    *,
    seed: int = 0,
    vocab: int = TINY_VOCAB,
    masked: float = 0.2,
    tail: bool = True,
    levels: int = 64,
    unit: str = "u0",
    recipe_id: str = "r" * 32,
) -> pa.Table:
    """A table in the schema SEQUENCES, one row per entry of `lengths`, with random varopt-like targets.

    Position i of a row has heads that include the token that really follows, so a shift by one changes every loss;
    `masked` is the share of positions without target; `tail=False` leaves residual mass without ids, as top_k does.
    """
    rng = np.random.default_rng(seed)
    rows = [
        _row(rng, n, vocab, masked, tail, levels)
        | {"doc_id": f"{unit}-{index:05d}", "unit_id": unit, "recipe_id": recipe_id}
        for index, n in enumerate(lengths)
    ]
    return with_checksums(pa.Table.from_pylist([row | {"checksum": ""} for row in rows], SEQUENCES))


@pytest.fixture(scope="session")
def make_rows() -> RowMaker:
    """The factory `make_rows_of`."""
    return make_rows_of


def _row(rng: np.random.Generator, n: int, vocab: int, masked: float, tail: bool, levels: int) -> dict[str, object]:
    input_ids = rng.integers(0, vocab, n)
    target_ids: list[list[int]] = []
    codes: list[list[int]] = []
    for position in range(n):
        if position == n - 1 or rng.random() < masked:
            target_ids.append([])
            codes.append([])
            continue
        others = rng.choice(np.delete(np.arange(vocab), input_ids[position + 1]), 5, replace=False)
        heads = [int(input_ids[position + 1]), *map(int, others[:2])]
        rest = sorted([int(others[3]), int(others[4]), int(others[4])]) if tail else []
        target_ids.append(heads + rest)
        codes.append(sorted((int(c) for c in rng.integers(1, levels // 4, 3)), reverse=True))
    statistics = [int(rng.integers(0, 200)) if ids else None for ids in target_ids]
    return {
        "corpus": "test",
        "source": "test.txt",
        "window_index": 0,
        "start": 0,
        "n_tokens": n,
        "n_targets": sum(bool(ids) for ids in target_ids),
        "levels": levels,
        "input_ids": input_ids.tolist(),
        "target_ids": target_ids,
        "head_codes": codes,
        "entropy_codes": statistics,
        "nll_codes": statistics,
        "mean_entropy": 1.0,
        "mean_nll": 1.0,
    }


class MemoryLake:
    """Rows by unit in memory; the first token of row i of the whole is i, so that batches can be told apart."""

    def __init__(
        self,
        make_rows: RowMaker,
        unit_lengths: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        self.units: dict[str, pa.Table] = {}
        number = 0
        for index, lengths in enumerate(unit_lengths):
            table = make_rows(lengths, seed=index, unit=f"u{index:03d}", **{"vocab": 300} | options)
            ids = table["input_ids"].to_pylist()
            for row in ids:
                row[0] = number
                number += 1
            at = table.schema.get_field_index("input_ids")
            numbered = table.set_column(at, table.schema.field(at), pa.array(ids, pa.list_(pa.int32())))
            self.units[f"u{index:03d}"] = with_checksums(numbered)
        self.weights = weights
        self.fetched: list[tuple[str, ...]] = []

    def fetch(self, unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        self.fetched.append(tuple(unit_ids))
        rows = pa.concat_tables([self.units[unit] for unit in sorted(unit_ids)])
        picked = rows.select(list(columns))
        if self.weights is not None:
            numbers = [row[0] for row in rows["input_ids"].to_pylist()]
            picked = picked.append_column("weight", pa.array([self.weights[i] for i in numbers], pa.float64()))
        return picked

    def row_set(self, weight: str | None = None) -> RowSet:
        units = pa.table(
            {
                "unit_id": list(self.units),
                "n_sequences": [t.num_rows for t in self.units.values()],
                "n_tokens": [sum(t["n_tokens"].to_pylist()) for t in self.units.values()],
                "n_targets": [sum(t["n_targets"].to_pylist()) for t in self.units.values()],
            }
        )
        totals = {name: sum(units[name].to_pylist()) for name in ("n_sequences", "n_tokens", "n_targets")}
        return RowSet(
            row_set_id="s" * 32,
            recipe_ids=("r" * 32,),
            up_to_commit=1,
            where=None,
            weight=weight,
            held_out=False,
            content_hash="c" * 32,
            units=units,
            **totals,
        )

    def reader(self, weight: str | None = None, **options: Any) -> "RowSetReader":
        # Tests of the lake alone must not pay for torch.
        from logitlake.pipeline.reading.reader import RowSetReader

        return RowSetReader(self.row_set(weight), self.fetch, **{"batch_sequences": 4, "block_tokens": 60} | options)


@pytest.fixture
def memory_lake(make_rows: RowMaker) -> Callable[..., MemoryLake]:
    """A factory of lakes in memory from lists of row lengths, one list a unit."""
    return partial(MemoryLake, make_rows)


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, object]:
    """Settings of a Llama small enough to train in milliseconds."""
    return dict(TINY_CONFIG)


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """A function that makes a random Llama of `tiny_config` from a seed; keywords change the config."""
    return make_tiny_llama


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as save_pretrained writes it: a random Llama with the tiny tokenizer."""
    directory = tmp_path_factory.mktemp("teacher")
    write_tiny_teacher(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small byte-level BPE tokenizer, as `save_pretrained` writes it."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(directory)
    return directory
