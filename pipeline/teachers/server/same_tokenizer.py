"""Whether the server cuts texts into the ids of the local tokenizer: by ids where it tells them, else by counts."""

import logging
from typing import Any

from logitlake.pipeline.teachers.server.transport import RefusedError, Transport
from logitlake.pipeline.tokens.same_ids import TEXTS, Difference
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError

log = logging.getLogger(__name__)

# Each count costs a completion.
_COUNTED = (
    "Hello, World! (HELLO) [world] {a} <b> #c @d &e %f",
    "if x == 1:\n    return [y**2 for y in z]  # note\n",
    "I'm you're he'll WE'VE it's don'T o'clock 'tis",
    "1234567890 3.14159 2026-11-30T15:50",
    "straße Привет, мир 我想在苹果工作 😀😁",
)


def compare_tokenizers(transport: Transport, model: str, tokenizer: TextTokenizer) -> str:
    """How the tokenizers were compared, in words for the run's record; a warning where the server offers no way.

    Raises MismatchError that names the first text that differs.
    """
    if _by_ids(transport, model, tokenizer):
        return f"ids of {len(TEXTS)} texts"
    if _by_counts(transport, model, tokenizer):
        return f"counts of {len(_COUNTED)} texts"
    log.warning(
        "teacher server %s: can't tell its tokenizer's ids or counts: make sure that teacher.model holds the tokenizer "
        "of the served model",
        transport.url,
    )
    return "not compared"


def _by_ids(transport: Transport, model: str, tokenizer: TextTokenizer) -> bool:
    """By `/tokenize` of vLLM and SGLang, or of llama.cpp, which names the text otherwise. False where there is none."""
    for text, expected in zip(TEXTS, tokenizer.encode_texts(TEXTS), strict=True):
        if not text:
            continue
        # Each server takes its own names and ignores the others'.
        body = {"model": model, "prompt": text, "content": text, "add_special_tokens": False, "add_special": False}
        try:
            answer = transport.post_beside("/tokenize", body)
        except (RefusedError, MismatchError):
            return False
        found = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
            return False
        if found != expected:
            raise _mismatch(transport, Difference(text=text, first=tuple(found), second=tuple(expected)))
    return True


def _by_counts(transport: Transport, model: str, tokenizer: TextTokenizer) -> bool:
    """By the number of prompt tokens that completions report, up to a constant: the server may add a BOS."""
    added: set[int] = set()
    for text, expected in zip(_COUNTED, tokenizer.encode_texts(_COUNTED), strict=True):
        try:
            answer = transport.post("/completions", {"model": model, "prompt": text, "max_tokens": 1})
        except RefusedError:
            return False
        count = _prompt_tokens(answer)
        if count is None:
            return False
        added.add(count - len(expected))
        if len(added) > 1 or not added <= {0, 1, 2}:
            raise MismatchError(
                f"teacher server {transport.url}: expected the tokenizer of teacher.model; the text {text[:80]!r} has "
                f"{count} tokens on the server and {len(expected)} here, BOS and EOS aside; set teacher.model to the "
                "tokenizer of the served model"
            )
    return True


def _prompt_tokens(answer: Any) -> int | None:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _mismatch(transport: Transport, difference: Difference) -> MismatchError:
    return MismatchError(
        f"teacher server {transport.url}: expected the tokenizer of teacher.model, found another: "
        f"{difference.words('the server', 'the local tokenizer')}; set teacher.model to the tokenizer of the served "
        "model"
    )
