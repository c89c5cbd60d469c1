"""One cell of the benchmark of quality: targets of one arm, one student trained on them, its held-out metrics."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.captured import benchmark_config, captured_lake
from benchmarks.full_logits import FullLogitsTrainer, index_rows
from benchmarks.quality_cells import BATCH_SEQUENCES, CROSS_ENTROPY, FULL, Cell, Plan
from benchmarks.quality_student import narrow_student
from benchmarks.replay import ReplayedTeacher, replayed_teacher
from benchmarks.sample import captured, in_batches, sequences_of, single_windows, whole_documents
from benchmarks.target_rows import target_rows
from benchmarks.target_sample import target_settings
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.evaluation.evaluate import evaluate
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.model_loss import LossSettings
from logitlake.pipeline.training.train_student import training_arguments
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet
from logitlake.storage.schema.sequences import HASHES, SEQUENCES, complete_rows
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.writing.recipes import find_recipe

# On every machine, so that a cell does not depend on where it was trained.
_DTYPE = "float32"
_BATCH_TOKENS = 4096
_UNIT = "all"


@dataclass(frozen=True)
class Stage:
    """What all cells of a plan share: sequences to learn from, held-out rows, and the teacher over both."""

    plan: Plan

    @cached_property
    def sequences(self) -> list[TokenSequence]:
        return sequences_of(whole_documents(captured(held_out=False), self.plan.tokens))

    @cached_property
    def teacher(self) -> ReplayedTeacher:
        return replayed_teacher(self.sequences, _DTYPE)

    @cached_property
    def held_out(self) -> pa.Table:
        return single_windows(captured(held_out=True), self.plan.held_out_targets)

    @cached_property
    def held_out_teacher(self) -> ReplayedTeacher:
        return replayed_teacher(sequences_of(self.held_out), _DTYPE)

    def prepare(self) -> None:
        """Run the teacher over all sequences before the workers start, so that it runs once."""
        _ = self.teacher, self.held_out_teacher

    @cached_property
    def recipe(self) -> dict[str, Any]:
        with Lake.open(captured_lake()) as lake:
            return find_recipe(lake)[1]


_worker_stage: Stage


def begin_worker(plan: Plan, jobs: int) -> None:
    """What a process that trains cells begins with, when there are so many of them."""
    global _worker_stage
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    _worker_stage = Stage(plan)


def train_in_worker(cell: Cell) -> dict[str, Any]:
    """One cell, in a process that `begin_worker` made ready."""
    return train_cell(_worker_stage, cell)


def train_cell(stage: Stage, cell: Cell) -> dict[str, Any]:
    """Train and measure. Everything that is random is keyed by the cell's seed, the same for all arms."""
    began = time.perf_counter()
    quiet_transformers()
    rows = _rows(stage, cell)
    n_tokens = sum(rows["n_tokens"].to_pylist())
    student, tokens_seen = _train(stage, cell, rows)
    metrics = evaluate(
        {"student": student}, [stage.held_out], stage.recipe, engine=stage.held_out_teacher, autocast=False
    )
    stored = cell.arm not in (FULL, CROSS_ENTROPY)
    return {
        **metrics.students["student"].to_dict(),
        "bytes_per_token": len(encode_shard(rows, stage.recipe)) / n_tokens if stored else None,
        "corpus_tokens": n_tokens,
        "tokens_seen": tokens_seen,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _rows(stage: Stage, cell: Cell) -> pa.Table:
    """The cache that this arm would have: drawn once, the same in every epoch."""
    tables = []
    for batch in in_batches(stage.sequences, _BATCH_TOKENS):
        if cell.arm == FULL:
            tables.append(index_rows(batch, stage.teacher))
            continue
        # Cross-entropy reads no target, but a position must have one.
        sparsifier = make_sparsifier(
            target_settings("top_k 1" if cell.arm == CROSS_ENTROPY else cell.arm, stage.plan.quick)
        )
        tables.append(target_rows(stage.teacher, batch, sparsifier, seed=cell.seed))
    return pa.concat_tables(tables).combine_chunks()


def _train(stage: Stage, cell: Cell, rows: pa.Table) -> tuple[Any, int]:
    training = benchmark_config().training.model_copy(
        update={
            "learning_rate": cell.learning_rate,
            "epochs": stage.plan.epochs,
            "batch_sequences": BATCH_SEQUENCES,
            "seed": cell.seed,
            "precision": "fp32",
            "device": "cpu",
        }
    )
    student = narrow_student(stage.teacher.weight_VD, seed=cell.seed)
    reader = memory_reader(rows, batch_sequences=BATCH_SEQUENCES, seed=cell.seed)
    with tempfile.TemporaryDirectory(prefix="logitlake-bench-") as directory:
        args = training_arguments(training, Path(directory), show_progress=False)
        if cell.arm == FULL:
            trainer: DistillationTrainer = FullLogitsTrainer(student, args, reader=reader, teacher=stage.teacher)
        else:
            weight = 1.0 if cell.arm == CROSS_ENTROPY else 0.0
            trainer = DistillationTrainer(student, args, reader=reader, loss=LossSettings(cross_entropy_weight=weight))
        trainer.train()
    return student, trainer.seen.tokens


def memory_reader(rows: pa.Table, *, batch_sequences: int, seed: int) -> RowSetReader:
    """The project's reader over rows in memory, in the same order whatever the rows' targets are."""
    counts = {name: sum(rows[name].to_pylist()) for name in ("n_tokens", "n_targets")}
    units = {"unit_id": [_UNIT], "n_sequences": [rows.num_rows], **{name: [n] for name, n in counts.items()}}
    row_set = RowSet(
        row_set_id="benchmark of quality",
        recipe_ids=(),
        up_to_commit=1,
        where=None,
        weight=None,
        held_out=False,
        content_hash="",
        n_sequences=rows.num_rows,
        units=pa.table(units),
        **counts,
    )

    def read(unit_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        # Rows whose targets were drawn anew here have no hash: it is null.
        unhashed = rows.select([name for name in rows.column_names if name not in HASHES])
        return complete_rows(unhashed, pa.schema([SEQUENCES.field(name) for name in columns]))

    return RowSetReader(row_set, read, batch_sequences=batch_sequences, seed=seed)
