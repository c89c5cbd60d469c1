"""Reads a completion: the ids that the server drew, and their log-probs. Texts are never read.

vLLM tells the ids by `token_ids`, and by names of tokens as `token_id:N`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.teachers.server.answers import only_choice, unlike

_NAME = "token_id:"
# float32 log-probs, written with fewer digits by some, may lie a little above 0.
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The tokens of a completion: their ids and log-probs, and the highest log-prob that was told at each."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    highest: tuple[float, ...]


def read_drawn(answer: Any) -> Drawn:
    """What the server drew. Raises MismatchError for an answer that does not tell ids and log-probs."""
    choice = only_choice(answer)
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        raise unlike("choices[0].logprobs", "an object with token_logprobs", logprobs)
    ids = _ids(choice, logprobs)
    values, tops = logprobs.get("token_logprobs"), logprobs.get("top_logprobs") or []
    if not isinstance(values, list) or len(values) != len(ids):
        raise unlike("choices[0].logprobs.token_logprobs", f"a list of {len(ids)} numbers", values)
    if not all(isinstance(value, int | float) and math.isfinite(value) and value <= _ROUNDING for value in values):
        raise unlike("choices[0].logprobs.token_logprobs", "log-probs", values)
    drawn = tuple(min(float(value), 0.0) for value in values)
    highest = tuple(max([value, *_values(tops, i)]) for i, value in enumerate(drawn))
    return Drawn(ids=ids, logprobs=drawn, highest=highest)


def _ids(choice: Mapping[str, Any], logprobs: Mapping[str, Any]) -> tuple[int, ...]:
    told = choice.get("token_ids")
    if told is None:
        names = logprobs.get("tokens")
        told = [_named(name) for name in names] if isinstance(names, list) else None
    if not isinstance(told, list) or not told or not all(type(i) is int and i >= 0 for i in told):
        raise unlike("choices[0].token_ids", "the ids of the drawn tokens", told)
    return tuple(told)


def _named(name: Any) -> int | None:
    number = name.removeprefix(_NAME) if isinstance(name, str) and name.startswith(_NAME) else ""
    return int(number) if number.isascii() and number.isdigit() else None


def _values(tops: Any, i: int) -> list[float]:
    entry = tops[i] if isinstance(tops, list) and i < len(tops) else None
    return [float(value) for value in entry.values()] if isinstance(entry, dict) else []
