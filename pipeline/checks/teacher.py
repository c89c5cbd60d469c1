"""All checks of a teacher and some documents, in an order in which one model is in memory at a time.

Shapes: p positions with a target of one sequence, P of all sequences, V ids.
"""

import gc
import logging
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.capture.planning import make_batches
from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.checks.ids import ComparedText, compared_texts, ids_outcome
from logitlake.pipeline.checks.labels import labelled_texts, labels_outcome
from logitlake.pipeline.checks.outcome import Outcome, joined, name_of, not_compared
from logitlake.pipeline.checks.parked import Parked, parked
from logitlake.pipeline.checks.probabilities import (
    compared_logprobs,
    engine_logprobs,
    logprobs_alone,
    with_other_ends,
)
from logitlake.pipeline.checks.reference import NoReferenceError, reference_logprobs, reference_tokenizer
from logitlake.pipeline.checks.sample import in_groups, sampled_windows
from logitlake.pipeline.checks.targets import targets_outcomes
from logitlake.pipeline.model_files.files import TeacherSource
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.teachers.probe import divergence_limit
from logitlake.pipeline.teachers.registry import load_engine
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The outcomes; the labels of chats and pairs as text; speed and memory of the teacher as far as it ran."""

    outcomes: list[Outcome] = field(default_factory=list)
    labelled: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)


def check_tokens(
    documents: Sequence[TokenizedDocument],
    *,
    source: TeacherSource,
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings,
) -> CheckReport:
    """Ids and labels of the documents against the tokenizer of transformers. Loads no model."""
    try:
        reference = reference_tokenizer(source.settings, source.files)
    except NoReferenceError as error:
        return CheckReport(
            outcomes=[not_compared("ids", "documents", str(error)), not_compared("labels", "labels", str(error))]
        )
    texts = [text for document in documents for text in compared_texts(document, tokenizer, tokenization, reference)]
    outcomes = [ids_outcome(texts), labels_outcome(documents, texts, tokenization, reference)]
    return CheckReport(outcomes=outcomes, labelled=_labelled(texts, reference))


def check_probabilities(
    documents: Sequence[TokenizedDocument], *, source: TeacherSource, recipe: Recipe, batch_tokens: int
) -> CheckReport:
    """The engine against itself (batches, later tokens), its targets, and plain transformers on each window alone.

    The first and the last window of each document are computed. Raises SettingsError if the teacher can't be loaded.
    """
    names = {tokenized.document.doc_id: name_of(tokenized.document) for tokenized in documents}
    windows = sampled_windows(documents, recipe.vocabulary)
    sequences, of_window = [sequence for _, sequence in windows], [names[doc_id] for doc_id, _ in windows]
    log.info("the engine %s computes %d windows", source.settings.engine, len(sequences))
    try:
        engine = load_engine(source.settings, source.files, vocab_size=source.vocabulary, window=source.window)
    except MismatchError as error:
        refused = Outcome(
            check="engine",
            result="differs",
            compared=1,
            unit="teachers",
            difference=None,
            bound=None,
            measure="",
            detail=str(error),
        )
        return CheckReport(outcomes=[refused])
    limit = divergence_limit(engine.description.get("dtype", ""))
    groups = in_groups(sequences, recipe.vocabulary)
    with parked() as alone:
        outcomes, measured = _of_engine(engine, sequences, of_window, groups, recipe, batch_tokens, limit, alone)
        del engine
        _release()
        log.info("transformers computes the same windows")
        plain = _of_plain(source, sequences, of_window, groups, alone, limit)
    _release()
    return CheckReport(outcomes=joined([*plain, *outcomes]), measured=measured)


def _of_plain(
    source: TeacherSource,
    sequences: list[TokenSequence],
    names: list[str],
    groups: list[range],
    alone: Parked,
    limit: float,
) -> list[Outcome]:
    """Plain transformers against the log-probabilities of each sequence alone by the engine, by groups."""
    parts = ([sequences[i] for i in group] for group in groups)
    computed = reference_logprobs(source.settings, source.files, parts, vocab_size=source.vocabulary)
    what = "the engine gives other probabilities than plain transformers"
    outcomes = []
    try:
        for number, group in enumerate(groups):
            expected, found = next(computed), alone.take(number)
            of_group = [names[i] for i in group]
            outcomes.append(compared_logprobs("probabilities", of_group, expected, found, limit=limit, what=what))
            del expected, found  # before the next group is computed
    except NoReferenceError as error:
        return [not_compared("probabilities", "positions", str(error))]
    finally:
        computed.close()
    return outcomes


def _of_engine(
    engine: Engine,
    sequences: list[TokenSequence],
    names: list[str],
    groups: list[range],
    recipe: Recipe,
    batch_tokens: int,
    limit: float,
    parked_alone: Parked,
) -> tuple[list[Outcome], dict[str, float]]:
    """The outcomes of each group that need no other model, and what was measured.

    Leaves the log-probabilities of each sequence alone, one list for each group.
    """
    outcomes: list[Outcome] = []
    for number, group in enumerate(groups):
        part, of_part = [sequences[i] for i in group], [names[i] for i in group]
        alone = logprobs_alone(engine, part)
        parked_alone.put(number, alone)
        outcomes += _of_group(engine, part, of_part, recipe, batch_tokens, limit, alone)
        del alone
    if any(outcome.check == "targets" for outcome in outcomes):
        return outcomes, {}
    return outcomes, {"tokens_per_second": _speed(engine, sequences, batch_tokens, recipe), **_memory(engine.device)}


def _of_group(
    engine: Engine,
    sequences: list[TokenSequence],
    names: list[str],
    recipe: Recipe,
    batch_tokens: int,
    limit: float,
    alone: list[torch.Tensor],
) -> list[Outcome]:
    """The outcomes of one group; "targets" if the engine gives no numbers."""
    batches = make_batches([len(sequence.input_ids) for sequence in sequences], batch_tokens)
    together: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for indices in batches:
        computed = engine_logprobs(engine, [sequences[i] for i in indices])
        for index, logprobs_pV in zip(indices, computed, strict=True):
            together[index] = logprobs_pV
    outcomes = [
        compared_logprobs(
            *("batches", names, alone, together),
            limit=limit,
            what="its probabilities change with the documents of its batch",
        ),
        _of_other_ends(engine, sequences, names, alone, limit),
    ]
    broken = [name for name, logprobs_pV in zip(names, together, strict=True) if bool(logprobs_pV.isnan().any())]
    if broken:
        why = f"{broken[0]}: the engine gives logits that are no numbers"
        return [*outcomes, not_compared("targets", "positions", why)]
    return [*outcomes, *_of_targets(engine, sequences, names, batches, recipe, together)]


def _of_other_ends(
    engine: Engine, sequences: list[TokenSequence], names: list[str], alone: list[torch.Tensor], limit: float
) -> Outcome:
    others = with_other_ends(sequences, engine.vocab_size)
    found = logprobs_alone(engine, [other for _, other in others])
    return compared_logprobs(
        "later tokens",
        [names[index] for index, _ in others],
        [alone[index][: len(logprobs_pV)] for (index, _), logprobs_pV in zip(others, found, strict=True)],
        found,
        limit=limit,
        what="its probabilities change with later tokens",
    )


def _of_targets(
    engine: Engine,
    sequences: list[TokenSequence],
    names: list[str],
    batches: list[list[int]],
    recipe: Recipe,
    together: list[torch.Tensor],
) -> list[Outcome]:
    """The targets that a capture would store, made in the same batches as the dense ones."""
    target, order = recipe.target, [index for indices in batches for index in indices]
    tables = []
    for indices in batches:
        batch = [sequences[i] for i in indices]
        (coded,), statistics = batch_targets(
            engine, batch, [make_sparsifier(target)], temperature=target.temperature, seed=target.seed
        )
        origin = RowOrigin(
            recipe_id=recipe.recipe_id, corpora=["check"] * len(batch), sources=[names[i] for i in indices]
        )
        tables.append(encode_rows(batch, coded, statistics, origin, nll_steps_per_nat=target.logprob_steps_per_nat))
    rows = pa.concat_tables(tables).combine_chunks()
    dense_PV = torch.cat([together[i] for i in order]).numpy()
    return targets_outcomes([names[i] for i in order], [sequences[i] for i in order], rows, dense_PV, target)


def _speed(engine: Engine, sequences: list[TokenSequence], batch_tokens: int, recipe: Recipe) -> float:
    """Tokens per second from ids to targets where every token has one; the teacher is warm by now."""
    batches = make_batches([len(sequence.input_ids) for sequence in sequences], batch_tokens)
    target, begin = recipe.target, time.perf_counter()
    for indices in batches:
        batch = [
            replace(sequence, has_target=np.arange(len(sequence.input_ids)) < len(sequence.input_ids) - 1)
            for sequence in map(sequences.__getitem__, indices)
        ]
        batch_targets(engine, batch, [make_sparsifier(target)], temperature=target.temperature, seed=target.seed)
    return sum(len(sequence.input_ids) for sequence in sequences) / (time.perf_counter() - begin)


def _labelled(texts: Sequence[ComparedText], reference: Any) -> list[dict[str, Any]]:
    return [
        {"document": name_of(text.document), "labelled": labelled_texts(text, reference)}
        for text in texts
        if not isinstance(text.document.content, str)
    ]


def _memory(device: torch.device) -> dict[str, float]:
    """The most memory so far in bytes: of the device if it is a GPU, else of this process."""
    if device.type == "cuda":
        return {"peak_device_bytes": float(torch.cuda.max_memory_allocated(device))}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_process_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}


def _release() -> None:
    """Give the memory of a model back before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
