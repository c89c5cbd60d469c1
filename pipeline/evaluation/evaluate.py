"""Evaluates students on held-out documents, and against their teacher. All metrics are in nats, means over targets.

With an engine the divergence is exact, from full distributions, and one pass of the teacher serves any number of
students. Without it KL(p‖q) = -H(p) - Σ p log q is estimated from the cache with the stored entropy and p̂ in place of
p, which is unbiased if the sparsifier is.

Shapes: B sequences; T tokens of the longest; P positions with a target (C of them in one chunk); V ids.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from logitlake.pipeline.evaluation.tally import Tally, document_losses
from logitlake.pipeline.model_files.loading import load_causal_lm
from logitlake.pipeline.reading.batches import TARGET_COLUMNS, TargetBatch, make_batch
from logitlake.pipeline.reading.blocks import Fetch, check_targets
from logitlake.pipeline.students.identity import check_student_files
from logitlake.pipeline.targets.arrow_lists import flat_lists
from logitlake.pipeline.targets.decoding import RaggedTargets, decode_targets
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.training.output_layer import ModelParts, take_apart
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.row_sets.row_set import RowSet
from logitlake.storage.schema.sequences import STEPS_PER_NAT
from logitlake.storage.target_facts import target_facts

EVALUATION_COLUMNS = (*TARGET_COLUMNS, "targets_hash", "doc_id", "entropy_codes", "nll_codes", "nll_steps_per_nat")

_CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One model on one set of rows.

    `kl` is from the teacher to the model, `kl_stderr` the standard error of its mean with sequences as clusters, the
    cache's own noise included; `top1_agreement` is with the teacher's likeliest token, from the cache only where that
    is stored; `calibration_error` is the expected calibration error of the top-1 probability, 15 bins. None if the
    cache does not hold what it needs.
    """

    cross_entropy: float
    kl: float | None
    kl_stderr: float | None
    top1_agreement: float | None
    calibration_error: float | None
    n_targets: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Metrics by student, and those of the teacher. `exact`: from the teacher itself, not from the cache.

    `documents` has a table for each student (see logitlake.pipeline.evaluation.document_losses).
    """

    students: dict[str, Metrics]
    teacher: Metrics
    exact: bool
    documents: dict[str, pa.Table]


def held_out_rows(
    row_set: RowSet, fetch: Fetch, *, max_tokens: int | None = None, training: bool = False
) -> Iterator[pa.Table]:
    """The rows of a held-out row set, a unit at a time, whole sequences up to `max_tokens` (at least one).

    Raises SettingsError for a row set that is not held out, unless `training` allows rows that a student was trained
    on.
    """
    if not row_set.held_out and not training:
        raise SettingsError("evaluation needs a row set of held-out documents: resolve it with held_out=True")
    left = max_tokens
    for unit_id in row_set.units["unit_id"].to_pylist():
        rows = fetch([unit_id], EVALUATION_COLUMNS)
        check_targets(rows, unit_id)
        if left is not None:
            used = np.cumsum(rows["n_tokens"].to_numpy())
            keep = max(int(np.searchsorted(used, left, side="right")), 1 if left == max_tokens else 0)
            rows = rows.slice(0, keep)
            left -= int(used[keep - 1]) if keep else 0
        if rows.num_rows:
            yield rows
        if left is not None and (left <= 0 or rows.num_rows < len(used)):
            return


def load_student(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """A student from its directory, in float32, on the CPU, ready to be evaluated.

    Raises IntegrityError if one of its files is not what was trained, SettingsError if it can't be loaded whole.
    """
    check_student_files(directory)
    model = load_causal_lm(directory, "student", dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model.eval()


@torch.inference_mode()
def evaluate(
    students: Mapping[str, Any],
    tables: Iterable[pa.Table],
    recipe: Mapping[str, Any],
    *,
    engine: Engine | None = None,
    batch_sequences: int = 8,
    autocast: bool = True,
) -> Evaluation:
    """Metrics of some models (by name) on rows that hold EVALUATION_COLUMNS.

    Batching and padding change them by rounding only. `autocast` computes hidden states in bfloat16 if the device does;
    softmax and sums are always float32 and float64. Raises MismatchError for a student with fewer ids than the
    teacher.
    """
    parts = {name: take_apart(model.eval()) for name, model in students.items()}
    sums = _EvaluationSums(parts, recipe, engine, autocast)
    first_sequence = 0
    doc_ids: list[str] = []
    for rows in tables:
        order = np.argsort(rows["n_tokens"].to_numpy(), kind="stable")
        for begin in range(0, len(order), batch_sequences):
            numbers = order[begin : begin + batch_sequences]
            sums.add(rows.take(pa.array(numbers)), first_sequence + numbers)
        first_sequence += rows.num_rows
        doc_ids += rows["doc_id"].to_pylist()
    return sums.result(doc_ids)


class _EvaluationSums:
    """Running sums of one evaluation."""

    def __init__(
        self, parts: Mapping[str, ModelParts], recipe: Mapping[str, Any], engine: Engine | None, autocast: bool
    ) -> None:
        self._parts = parts
        self._engine = engine
        self._autocast = autocast
        facts = target_facts(recipe)
        self._heads_are_likeliest = facts.get("heads") == "probabilities"
        # The stored entropy is at temperature 1: at another temperature it does not match the targets.
        self._kl_in_cache = recipe["temperature"] == 1.0 and bool(facts.get("unbiased") or facts.get("cuts_mass"))
        self._tallies = {name: Tally() for name in parts}
        self._teacher = Tally()
        vocabulary = engine.vocab_size if engine else recipe["vocabulary"]
        for name, part in parts.items():
            if part.vocab_size < vocabulary:
                raise MismatchError(
                    f"student {name}: expected at least {vocabulary} ids, as the teacher has, found {part.vocab_size}"
                )

    def add(self, rows: pa.Table, sequences: np.ndarray) -> None:
        batch = make_batch(rows, cut_mass="ghost")
        if not batch.n_targets:
            return
        positions_P = batch.targets.offsets.diff().nonzero().squeeze(1)
        positions = _Positions(batch, positions_P, torch.from_numpy(sequences)[positions_P // batch.input_ids.shape[1]])
        hidden = {name: self._hidden(part, batch, positions_P) for name, part in self._parts.items()}
        if self._engine is not None:
            self._compare_to_teacher(rows, positions, hidden)
        else:
            self._compare_to_cache(rows, positions, hidden)

    def result(self, doc_ids: Sequence[str]) -> Evaluation:
        """The metrics; `doc_ids[i]` is the document of sequence i."""
        return Evaluation(
            students={name: _metrics(tally) for name, tally in self._tallies.items()},
            teacher=_metrics(self._teacher),
            exact=self._engine is not None,
            documents={name: document_losses(doc_ids, tally, self._teacher) for name, tally in self._tallies.items()},
        )

    def _hidden(self, part: ModelParts, batch: TargetBatch, positions_P: torch.Tensor) -> torch.Tensor:
        device = part.model.device
        bf16 = self._autocast and resolve_dtype("auto", device.type) == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hidden = part.hidden(batch.input_ids.to(device))
        return hidden.flatten(0, 1)[positions_P.to(device)].to(part.model.dtype)

    def _compare_to_teacher(self, rows: pa.Table, positions: "_Positions", hidden: Mapping[str, torch.Tensor]) -> None:
        assert self._engine is not None
        tokens, offsets = flat_lists(rows["input_ids"])
        has_target = np.diff(decode_targets(rows).offsets) > 0
        bounds = offsets[1:-1]
        begin = 0
        for logits in self._engine.forward(np.split(tokens.astype(np.int32), bounds), np.split(has_target, bounds)):
            for piece in logits.split(max(_CHUNK_ELEMENTS // logits.shape[1], 1)):
                logprobs_CV = piece.float().log_softmax(-1)
                part = positions.part(begin, begin + len(piece))
                begin += len(piece)
                _tally_top1(self._teacher, logprobs_CV, part, logprobs_CV.argmax(-1))
                self._teacher.add_divergence(torch.zeros(len(piece)), part.sequences)
                for name, tally in self._tallies.items():
                    student_CV = self._logprobs(name, hidden[name][part.begin : part.end])
                    teacher_CV = logprobs_CV.to(student_CV.device)
                    _tally_top1(tally, student_CV, part, teacher_CV.argmax(-1))
                    gap_CV = teacher_CV - student_CV[:, : teacher_CV.shape[1]]
                    # 0 times infinity is 0 where the teacher's probability is 0; a student's NaN stays NaN.
                    probs_CV = teacher_CV.exp()
                    kl_C = torch.where(probs_CV > 0, probs_CV * gap_CV, 0.0).sum(-1)
                    tally.add_divergence(kl_C, part.sequences)

    def _compare_to_cache(self, rows: pa.Table, positions: "_Positions", hidden: Mapping[str, torch.Tensor]) -> None:
        ragged = decode_targets(rows, cut_mass="ghost")
        at = np.flatnonzero(np.diff(ragged.offsets))
        entropy_P = _nats(rows, "entropy_codes", at)
        self._teacher.add_loss(_nats(rows, "nll_codes", at, "nll_steps_per_nat"), positions.sequences)
        likeliest_P = _likeliest(ragged, at) if self._heads_are_likeliest else torch.full((len(at),), -1)
        # A truncation that cut nothing in these rows stored the whole distribution. Some engines give no entropy.
        unbiased = self._kl_in_cache and ragged.ghost is None and not bool(entropy_P.isnan().any())
        counts_P = torch.from_numpy(np.diff(ragged.offsets)[at])
        entry_offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts_P.cumsum(0)])
        for name, tally in self._tallies.items():
            step = max(_CHUNK_ELEMENTS // self._parts[name].vocab_size, 1)
            for begin in range(0, len(at), step):
                part = positions.part(begin, min(begin + step, len(at)))
                student_CV = self._logprobs(name, hidden[name][part.begin : part.end])
                _tally_top1(tally, student_CV, part, likeliest_P[part.begin : part.end].to(student_CV.device))
                if not unbiased:
                    tally.has_divergence = False
                    continue
                low, high = int(entry_offsets[part.begin]), int(entry_offsets[part.end])
                rows_E = torch.repeat_interleave(torch.arange(part.end - part.begin), counts_P[part.begin : part.end])
                ids_E = torch.from_numpy(ragged.ids[low:high].astype(np.int64))
                logq_E = student_CV.cpu()[rows_E, ids_E]
                crossed = torch.zeros(part.end - part.begin).index_add_(
                    0, rows_E, torch.from_numpy(ragged.probs[low:high]) * logq_E
                )
                tally.add_divergence(-entropy_P[part.begin : part.end] - crossed, part.sequences)

    def _logprobs(self, name: str, hidden_CD: torch.Tensor) -> torch.Tensor:
        return self._parts[name].logits(hidden_CD).float().log_softmax(-1)


@dataclass(frozen=True, slots=True)
class _Positions:
    """Some of a batch's positions with a target: the next token and the sequence of each."""

    batch: TargetBatch
    positions: torch.Tensor
    sequences: torch.Tensor
    begin: int = 0
    end: int = 0

    @property
    def next_ids(self) -> torch.Tensor:
        return self.batch.next_ids.flatten()[self.positions]

    def part(self, begin: int, end: int) -> "_Positions":
        return _Positions(self.batch, self.positions[begin:end], self.sequences[begin:end], begin, end)


def _tally_top1(tally: Tally, logprobs_CV: torch.Tensor, part: _Positions, likeliest_C: torch.Tensor) -> None:
    """Cross-entropy, calibration and agreement of one chunk; a likeliest id of -1 is unknown."""
    next_ids_C = part.next_ids.to(logprobs_CV.device)
    tally.add_loss(-logprobs_CV.gather(1, next_ids_C.unsqueeze(1)).squeeze(1), part.sequences)
    top_C, argmax_C = logprobs_CV.max(-1)
    tally.add_confidence(top_C.exp(), argmax_C == next_ids_C)
    has_likeliest_C = likeliest_C >= 0
    tally.add_agreement((argmax_C == likeliest_C)[has_likeliest_C])


def _nats(rows: pa.Table, name: str, at: np.ndarray, steps_column: str | None = None) -> torch.Tensor:
    """A stored per-position statistic in nats at the positions that have a target, float32 [P]."""
    codes, offsets = flat_lists(rows[name])
    if steps_column is None:
        return torch.from_numpy((codes[at] / STEPS_PER_NAT).astype(np.float32))
    steps_R = pc.fill_null(rows[steps_column], STEPS_PER_NAT).to_numpy()
    steps_P = steps_R[np.searchsorted(offsets, at, side="right") - 1]
    return torch.from_numpy((codes[at] / steps_P).astype(np.float32))


def _likeliest(ragged: RaggedTargets, at: np.ndarray) -> torch.Tensor:
    """The teacher's likeliest id at positions with a head, else -1."""
    first = ragged.ids[ragged.offsets[at]].astype(np.int64)
    return torch.from_numpy(np.where(ragged.n_heads[at] > 0, first, -1))


def _metrics(tally: Tally) -> Metrics:
    return Metrics(
        cross_entropy=tally.loss,
        kl=tally.divergence,
        kl_stderr=tally.divergence_stderr,
        top1_agreement=tally.agreement,
        calibration_error=tally.calibration_error,
        n_targets=tally.n,
    )
