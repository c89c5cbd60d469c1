"""The two forms in which servers give log-probs of prompt tokens: what to ask for, and how to read the answer.

`prompt_logprobs` is vLLM's: entries by token id, with the real token always among them. `echo` is the classic form of
the completions API: entries by the text of the token, so that an id whose text another id has too can't be told; such
an entry is left out, and its mass counts as residual.

Shapes: n tokens of a sequence, p positions of it with a target, k ids of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from logitlake.pipeline.teachers.server.token_names import TokenNames
from logitlake.pipeline.teachers.top_k_engine import TopLogprobs, WantedLogprobs
from logitlake.storage.errors import MismatchError

# Servers write -inf as a number that JSON has.
_NEVER = -9000.0
# float32 log-probs, written with fewer digits by some.
# So many positions tell a cap from texts that several ids share.
_ENOUGH_POSITIONS = 8
_ROUNDING = 1e-3

# Id (None where it can't be told) and log-prob of each entry of a position; log-prob of the real token.
_Entries = list[tuple[int | None, float]]
_Position = tuple[_Entries, float]


class Form(Protocol):
    """One way to ask for the log-probs of prompt tokens."""

    name: str

    def request(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """The body of a request to `/completions`."""

    def positions(self, answer: Any, prompt: Sequence[int]) -> Iterator[_Position]:
        """What the answer says of prompt tokens 1, 2, …: their place in the prompt is that of their label.

        Raises MismatchError for an answer of another form.
        """

    def is_capped(self, counts: Sequence[int], k: int) -> bool:
        """Whether the numbers of entries of the positions of one answer tell that the server gives fewer than k."""


def prompt_of(wanted: WantedLogprobs) -> list[int]:
    """The ids to send: what comes after the last label would cost and change nothing."""
    last = int(np.flatnonzero(wanted.has_target)[-1])
    return [int(token) for token in wanted.input_ids[: last + 2]]


def read_answer(form: Form, answer: Any, wanted: WantedLogprobs, *, k: int, vocab_size: int) -> TopLogprobs:
    """The log-probs of the positions with a target. Raises MismatchError for an answer that can't be what was asked."""
    at = np.flatnonzero(wanted.has_target)
    ids_pk, logprobs_pk = np.zeros((len(at), k), np.int64), np.full((len(at), k), -np.inf)
    next_p = np.empty(len(at))
    labels = {int(position) + 1: row for row, position in enumerate(at)}
    counts: list[int] = []
    for label, (entries, next_logprob) in enumerate(form.positions(answer, prompt_of(wanted)), start=1):
        row = labels.get(label)
        if row is None:
            continue
        counts.append(len(entries))
        # The real token is an entry too where it is not among the k: cut first, so that it never stands for another.
        for rank, (token, value) in enumerate(_told(sorted(entries, key=_descending)[:k], vocab_size)):
            ids_pk[row, rank], logprobs_pk[row, rank] = token, _logprob(value)
        next_p[row] = _logprob(next_logprob)
    if counts and form.is_capped(counts, min(k, vocab_size)):
        raise MismatchError(
            f"teacher server: expected {min(k, vocab_size)} log-probs for each token of a prompt, found "
            f"{min(counts)} to {max(counts)}; lower target.k to what the server gives"
        )
    mass_p = np.exp(logprobs_pk).sum(axis=1)
    if not (mass_p <= 1 + _ROUNDING).all():
        raise MismatchError(
            f"teacher server: expected log-probs of a distribution at temperature 1, found {k} probabilities that sum "
            f"to {float(np.nanmax(mass_p)):.4g}; with vLLM, start the server with --logprobs-mode raw_logprobs"
        )
    return TopLogprobs(ids=ids_pk, logprobs=logprobs_pk, next_logprobs=next_p)


def _descending(entry: tuple[int | None, float]) -> tuple[float, int]:
    token, value = entry
    return -value, -1 if token is None else token


def _told(entries: _Entries, vocab_size: int) -> Iterator[tuple[int, float]]:
    for token, value in entries:
        if token is not None and token < vocab_size:
            yield token, value


def _logprob(value: float) -> float:
    """Rounding may bring a log-prob above 0; what is beyond it in earnest is found by the sum."""
    return -np.inf if value <= _NEVER else min(value, 0.0) if value <= _ROUNDING else value


class PromptLogprobs:
    """The parameter `prompt_logprobs` of vLLM: exact ids."""

    name = "prompt_logprobs"

    def request(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": k}

    def is_capped(self, counts: Sequence[int], k: int) -> bool:
        return min(counts) < k

    def positions(self, answer: Any, prompt: Sequence[int]) -> Iterator[_Position]:
        listed = only_choice(answer).get("prompt_logprobs")
        if not isinstance(listed, list) or len(listed) != len(prompt):
            raise unlike("choices[0].prompt_logprobs", f"a list of {len(prompt)} entries", listed)
        for token, entry in zip(prompt[1:], listed[1:], strict=True):
            try:
                values: _Entries = [(int(name), float(given["logprob"])) for name, given in entry.items()]
                yield values, float(entry[str(token)]["logprob"])
            except (AttributeError, KeyError, TypeError, ValueError):
                raise unlike(
                    "an entry of prompt_logprobs", f"log-probs by id, with the real token {token} among them", entry
                ) from None


class Echo:
    """The parameters `echo` and `logprobs` of the classic completions API: ids by their text."""

    name = "echo"

    def __init__(self, names: TokenNames) -> None:
        self.names = names

    def request(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        asked = {"echo": True, "logprobs": k}
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 1.0, **asked}

    def is_capped(self, counts: Sequence[int], k: int) -> bool:
        # Ids with the same text share an entry: some positions have fewer. All of them, and alike, is a cap; the real
        # token may be one more.
        alike = len(counts) >= _ENOUGH_POSITIONS and max(counts) - min(counts) <= 1
        return max(counts) <= k / 2 or (alike and max(counts) < k)

    def positions(self, answer: Any, prompt: Sequence[int]) -> Iterator[_Position]:
        logprobs = only_choice(answer).get("logprobs")
        if not isinstance(logprobs, dict):
            raise unlike("choices[0].logprobs", "an object", logprobs)
        names, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
        for name, listed in (("tokens", names), ("token_logprobs", values), ("top_logprobs", tops)):
            # The generated token may follow.
            if not isinstance(listed, list) or len(listed) not in (len(prompt), len(prompt) + 1):
                raise unlike(f"choices[0].logprobs.{name}", f"a list of {len(prompt)} entries", listed)
        assert names is not None and values is not None and tops is not None
        for i, token in enumerate(prompt[1:], start=1):
            try:
                value = float(values[i])
                entries = [(name, float(given)) for name, given in tops[i].items()]
            except (AttributeError, TypeError, ValueError):
                raise unlike("an entry of logprobs", "log-probs by token", tops[i]) from None
            if self.names.id_of(names[i]) not in (token, None):
                raise unlike(f"token {i} of the echoed prompt", f"the text of id {token}", names[i])
            is_real = (names[i], value)
            yield [(token if entry == is_real else self.names.id_of(entry[0]), entry[1]) for entry in entries], value


def only_choice(answer: Any) -> Mapping[str, Any]:
    """The completion of an answer that has one. Raises MismatchError for another one."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise unlike("the answer", "an object with one choice", answer)
    return choices[0]


def unlike(what: str, expected: str, found: Any) -> MismatchError:
    """The error for a part of an answer that is not as expected."""
    words = f"a list of {len(found)}" if isinstance(found, list) else f"{found!r:.200}"
    return MismatchError(
        f"teacher server: {what}: expected {expected}, found {words}; the server is not the one that was probed, or "
        "does not give what was asked for"
    )
