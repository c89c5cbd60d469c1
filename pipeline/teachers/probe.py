"""Probes a loaded teacher: does a target depend on its own document only?

Three ways in which it may not: a position sees later tokens (a bidirectional model); a longer document in the batch
changes the others (some RoPE scalings, capacity limits of experts); an earlier batch changes later ones. The first and
the last are refused; for the second, documents are computed alone.

Shapes: P positions that are compared, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.teachers.engine import Engine
from logitlake.storage.errors import MismatchError, SettingsError

_log = logging.getLogger(__name__)
_SHORT = 16
_COMPARED = 16
# Mean KL in nats at which two results are not the same function. Rounding gives far less: about 1e-10 in float32, and
# up to 1e-3 in bfloat16, where another batch shape may change the last bit of every product.
_FLOAT32_LIMIT = 1e-7
_SHORT_FLOAT_LIMIT = 2e-2


class OneByOne:
    """An engine that computes each sequence in a batch of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    @property
    def device(self) -> torch.device:
        return self._engine.device

    @property
    def description(self) -> dict[str, str]:
        return {
            **self._engine.description,
            "batches": "one sequence, because a longer one beside it changes its logits",
        }

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        for ids, mask in zip(input_ids, has_target, strict=True):
            yield from self._engine.forward([ids], [mask])


def probed(engine: Engine, *, window: int, name: str) -> Engine:
    """The engine itself, or a OneByOne of it where batches change logits.

    Costs a few forwards of at most `window` tokens. Raises MismatchError for a teacher whose positions see later
    tokens, or whose logits depend on what it computed before, SettingsError if it can't compute a window.
    """
    limit = divergence_limit(engine.description.get("dtype", ""))
    short, middle, long = (_ids(length, engine.vocab_size) for length in _lengths(window))
    try:
        alone = _end(engine, [short])
        _refuse_bidirectional(engine, short, limit, name)
        middle_before = _end(engine, [middle])
        beside = _end(engine, [short, long])
        # First the middle one: a scaling that remembers the longest sequence forgets it at a short one.
        after = _divergence(middle_before, _end(engine, [middle])), _divergence(alone, _end(engine, [short]))
        # Short ones fit one batch of any engine; a long one may have been computed in a batch of its own.
        tiny = short[: max(2, len(short) // 2)]
        among_short = _divergence(_end(engine, [tiny]), _end(engine, [tiny, short, short]))
    except torch.OutOfMemoryError:
        # The device may have room later, or for smaller batches: the caller knows.
        raise
    except (RuntimeError, IndexError) as error:
        raise SettingsError(
            f"teacher {name}: can't compute a window of {len(long)} tokens: {str(error).splitlines()[0]}; set "
            "tokenization.window to what the model was made for"
        ) from error
    if max(after) > limit:
        raise MismatchError(
            f"teacher {name}: the logits of a document changed by {max(after):.2g} nats after a longer one (limit "
            f"{limit:g}): its RoPE scaling or its code keeps something between batches; set tokenization.window "
            "to the positions that it was trained with"
        )
    if max(_divergence(alone, beside), among_short) <= limit:
        return engine
    _log.warning("teacher %s: a longer document in the batch changes the others; each is computed alone, slowly", name)
    return OneByOne(engine)


def divergence_limit(dtype: str) -> float:
    """The mean KL in nats at which two results of a model in this dtype are not the same function."""
    return _FLOAT32_LIMIT if dtype in ("float32", "float64") else _SHORT_FLOAT_LIMIT


def _lengths(window: int) -> tuple[int, int, int]:
    """A short sequence, one near the window, and the window: some scalings begin somewhere below it."""
    return min(_SHORT, max(2, window // 2)), max(2, window * 3 // 4), window


def _ids(length: int, vocab_size: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, vocab_size, length).astype(np.int32)


def _refuse_bidirectional(engine: Engine, ids: NDArray[np.int32], limit: float, name: str) -> None:
    """Change the later half: the logits of the earlier half must stay."""
    half = len(ids) // 2
    earlier = np.arange(len(ids)) < half
    changed = ids.copy()
    changed[half:] = (changed[half:] + 1) % engine.vocab_size
    difference = _divergence(_logprobs(engine, [ids], [earlier]), _logprobs(engine, [changed], [earlier]))
    if difference > limit:
        raise MismatchError(
            f"teacher {name}: the logits of a position change by {difference:.2g} nats with a later token (limit "
            f"{limit:g}): it sees the token that it should predict; expected a causal language model"
        )


def _end(engine: Engine, sequences: list[NDArray[np.int32]]) -> torch.Tensor:
    """Log-probabilities of the last positions of the first sequence `[P, V]`, beside the others."""
    masks = [np.zeros(len(ids), bool) for ids in sequences]
    masks[0][-_COMPARED:] = True
    return _logprobs(engine, sequences, masks)


def _logprobs(engine: Engine, sequences: list[NDArray[np.int32]], masks: list[NDArray[np.bool_]]) -> torch.Tensor:
    return torch.cat([chunk.to(torch.float32).log_softmax(-1) for chunk in engine.forward(sequences, masks)])


def _divergence(first_PV: torch.Tensor, second_PV: torch.Tensor) -> float:
    """Mean KL in nats; infinite if it is not a number."""
    kl = torch.nn.functional.kl_div(second_PV, first_PV, log_target=True, reduction="none")
    mean = float(kl.nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).mean()) if _finite(first_PV, second_PV) else torch.inf
    return abs(mean)


def _finite(*logprobs: torch.Tensor) -> bool:
    return not any(bool(values.isnan().any()) for values in logprobs)
