"""The check of a teacher that gives only its most probable ids: its log-probs against those of plain transformers.

Shapes: p positions with a target of one sequence, k ids of each, V ids.
"""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.checks.outcome import Outcome, joined, judged, name_of, not_compared
from logitlake.pipeline.checks.reference import NoReferenceError, reference_logprobs
from logitlake.pipeline.checks.sample import in_groups, sampled_windows
from logitlake.pipeline.checks.teacher import CheckReport
from logitlake.pipeline.model_files.files import TeacherSource
from logitlake.pipeline.targets.sparsifiers.top_k import TopKSettings
from logitlake.pipeline.teachers.probe import divergence_limit
from logitlake.pipeline.teachers.registry import load_any_engine
from logitlake.pipeline.teachers.top_k_engine import TopKEngine, TopLogprobs, WantedLogprobs
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence

log = logging.getLogger(__name__)

_LEAST = 1e-12


def check_top_k(documents: Sequence[TokenizedDocument], *, source: TeacherSource, recipe: Recipe) -> CheckReport:
    """The engine against plain transformers on each window alone, where the weights lie here.

    The first and the last window of each document are computed. Raises SettingsError if the teacher can't be used,
    MismatchError if it is another one.
    """
    assert isinstance(recipe.target, TopKSettings), "the recipe refuses other sparsifiers"
    names = {tokenized.document.doc_id: name_of(tokenized.document) for tokenized in documents}
    windows = sampled_windows(documents, recipe.vocabulary)
    sequences, of_window = [sequence for _, sequence in windows], [names[doc_id] for doc_id, _ in windows]
    log.info("the engine %s computes %d windows", source.settings.engine, len(sequences))
    engine = load_any_engine(source.settings, source.files, vocab_size=source.vocabulary, window=source.window)
    assert isinstance(engine, TopKEngine)
    begin = time.perf_counter()
    wanted = (WantedLogprobs(input_ids=s.input_ids, has_target=s.has_target) for s in sequences)
    answers = list(engine.top_logprobs(wanted, k=recipe.target.k))
    seconds = time.perf_counter() - begin
    measured = {"tokens_per_second": sum(len(sequence.input_ids) for sequence in sequences) / max(seconds, 1e-9)}
    if source.files.served_as is not None:
        why = f"only the server of {source.files.served_as} has the weights"
        return CheckReport(outcomes=[not_compared("probabilities", "positions", why)], measured=measured)
    log.info("transformers computes the same windows")
    return CheckReport(outcomes=_compared(source, recipe, sequences, of_window, answers), measured=measured)


def _compared(
    source: TeacherSource,
    recipe: Recipe,
    sequences: list[TokenSequence],
    names: list[str],
    answers: list[TopLogprobs],
) -> list[Outcome]:
    groups = in_groups(sequences, recipe.vocabulary)
    computed = reference_logprobs(
        source.settings, source.files, ([sequences[i] for i in group] for group in groups), vocab_size=source.vocabulary
    )
    outcomes = []
    try:
        for group, expected in zip(groups, computed, strict=True):
            for index, logprobs_pV in zip(group, expected, strict=True):
                outcomes.append(_window(names[index], sequences[index], answers[index], logprobs_pV, recipe.dtype))
    except NoReferenceError as error:
        return [not_compared("probabilities", "positions", str(error))]
    finally:
        computed.close()
    return joined(outcomes)


def _window(name: str, sequence: TokenSequence, answer: TopLogprobs, logprobs_pV: torch.Tensor, dtype: str) -> Outcome:
    expected_pV = logprobs_pV.numpy()
    at = np.flatnonzero(sequence.has_target)
    next_p = expected_pV[np.arange(len(at)), sequence.input_ids[at + 1]]
    kl = float(divergence(answer, expected_pV).mean()) if len(at) else 0.0
    off = float(np.abs(np.exp(answer.next_logprobs) - np.exp(next_p)).mean()) if len(at) else 0.0
    return judged(
        "probabilities",
        compared=len(at),
        unit="positions",
        difference=kl,
        bound=divergence_limit(dtype),
        measure="nats, mean KL of a window",
        detail=f"{name}: the server gives other probabilities than plain transformers with the files of teacher.model; "
        f"those of the real next tokens differ by {off:.2g} on average",
    )


def divergence(answer: TopLogprobs, expected_pV: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL `float64[p]` in nats from the expected to the answered probabilities of the k ids and of all others together.

    At most that of the whole distributions.
    """
    has_id = answer.logprobs > -np.inf
    expected_pk = np.where(has_id, np.exp(np.take_along_axis(expected_pV, answer.ids, 1)), 0.0)
    found_pk = np.exp(answer.logprobs)
    kl_p = _terms(expected_pk, found_pk).sum(axis=1)
    return np.asarray(kl_p + _terms(1 - expected_pk.sum(axis=1), 1 - found_pk.sum(axis=1)))


def _terms(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    expected, found = np.maximum(expected, 0.0), np.maximum(found, _LEAST)
    return np.where(expected > 0, expected * np.log(np.maximum(expected, _LEAST) / found), 0.0)
