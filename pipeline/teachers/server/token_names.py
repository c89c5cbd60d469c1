"""Ids by the text that a server writes for a token."""

from collections.abc import Mapping

from logitlake.pipeline.tokens.tokenizer import TextTokenizer


class TokenNames:
    """A text is the name of an id if no other id has it: its own decoded text, or its entry in the vocabulary."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        backend = tokenizer.backend
        ids = range(tokenizer.vocab_size)
        self._texts = _unique(backend.decode_batch([[i] for i in ids], skip_special_tokens=False))
        self._pieces = _unique([backend.id_to_token(i) or "" for i in ids])
        # vLLM writes these where it is told to.
        self._numbers = {f"token_id:{i}": i for i in ids}

    @property
    def told(self) -> int:
        """How many ids a text of their own tells."""
        return sum(token is not None for token in self._texts.values())

    def id_of(self, name: str) -> int | None:
        """The id, or None if several have this name, or none."""
        for names in (self._texts, self._pieces, self._numbers):
            if name in names:
                return names[name]
        return None


def _unique(names: list[str]) -> Mapping[str, int | None]:
    """None where several ids have a name; a text that is no whole character stands for many."""
    ids: dict[str, int | None] = {}
    for token, name in enumerate(names):
        ids[name] = None if name in ids or "\ufffd" in name or not name else token
    return ids
