"""Reads a Hugging Face tokenizer directory with `tokenizers` alone: no torch, no transformers, 0.1 s."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from logitlake.pipeline.tokens.chat_template import ChatTemplate
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import canonical_json, digest

# Without the padding token: training code may change it, and no cached token depends on it.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_REPLACEMENT = "\ufffd"


class TextTokenizer:
    """Text to token ids, as the teacher's own tokenizer, without truncation and padding.

    `fingerprint` is a hash of everything that decides a token id, and of the directory's own chat template.
    `chat_template` is the template in effect, which may be another file; `template_hash` is its hash or None.
    """

    def __init__(
        self, backend: Tokenizer, *, config: dict[str, Any], own_template: str | None, template: ChatTemplate | None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.chat_template = template
        self.template_hash = template.template_hash if template else None
        special = _special_tokens(config)
        self.special_tokens = special
        self.bos_id = _id_of(backend, special, "bos_token")
        self.eos_id = _id_of(backend, special, "eos_token")
        ids = backend.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        self.adds_bos = self.bos_id is not None and _adds_bos(backend, config, self.bos_id)
        self.fingerprint = _fingerprint(backend, special, self.adds_bos, own_template)
        self._adds_prefix_space = backend.encode("a", add_special_tokens=False).ids != self._after_anchor("a")

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        chat_template: Path | None = None,
        backend: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> "TextTokenizer":
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja of `directory`.

        `chat_template` is a Jinja file to use in place of the directory's own, `backend` a JSON text to use in place of
        tokenizer.json; `config` names the special tokens and `add_bos_token` in place of the files. Raises
        SettingsError for what is missing or unreadable.
        """
        loaded = _load_backend(directory / "tokenizer.json", backend)
        files = _read_config(directory)
        own_template = _own_template(directory, files)
        if config is not None:
            files = dict(config)
        special = _special_tokens(files)
        control = [token.content for token in loaded.get_added_tokens_decoder().values() if token.special]
        source, origin = own_template, str(directory)
        if chat_template is not None:
            source, origin = _read(chat_template), str(chat_template)
        template = None
        if source is not None:
            template = ChatTemplate(source, special_tokens=special, control_tokens=control, origin=origin)
        return cls(loaded, config=files, own_template=own_template, template=template)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without the tokens that the tokenizer's own template would add."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """As `encode_texts`, with the characters that each token came from: `.ids` and `.offsets`."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows another: without the space that some tokenizers put before a text."""
        if self._adds_prefix_space and (ids := self._after_anchor(text)) is not None:
            return ids
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def token_texts(self) -> list[str]:
        """The text of every id in [0, vocab_size), for people to read.

        An id that is not a whole character has the vocabulary's own piece; an id without a token is empty.
        """
        anchor = self.backend.encode("a", add_special_tokens=False).ids
        before = self.backend.decode(anchor, skip_special_tokens=False)
        decoded = self.backend.decode_batch(
            [[*anchor, token_id] for token_id in range(self.vocab_size)], skip_special_tokens=False
        )
        texts = []
        for token_id, text in enumerate(decoded):
            readable = text.startswith(before) and _REPLACEMENT not in text and len(text) > len(before)
            piece = None if readable else self.backend.id_to_token(token_id)
            texts.append(text.removeprefix(before) if readable else piece or "")
        return texts

    def special_ids(self) -> frozenset[int]:
        """The ids that are marked as special in the vocabulary."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def require_chat_template(self) -> ChatTemplate:
        """The chat template in effect. Raises MismatchError if there is none."""
        if self.chat_template is None:
            raise MismatchError(
                "the corpus holds chats, but the teacher's tokenizer has no chat template: set "
                "tokenization.chat_template to a Jinja file, or read the corpus as text"
            )
        return self.chat_template

    def _after_anchor(self, text: str) -> list[int] | None:
        """Ids of the text after a new line, or None if a token spans both."""
        anchor = self.backend.encode("\n", add_special_tokens=False).ids
        ids = self.backend.encode("\n" + text, add_special_tokens=False).ids
        return list(ids[len(anchor) :]) if anchor and ids[: len(anchor)] == anchor else None


def _load_backend(path: Path, content: str | None) -> Tokenizer:
    """From `content`, else from the file. Raises SettingsError."""
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8") if content is None else content)
    except OSError as error:
        advice = "expected a directory with a tokenizer.json, as save_pretrained writes it"
        raise SettingsError(f"tokenizer {path}: can't be read ({error.strerror}); {advice}") from None
    except Exception as error:  # tokenizers raises the bare class
        raise SettingsError(f"tokenizer {path}: not a tokenizer ({error}); save it again") from None


def _fingerprint(backend: Tokenizer, special: dict[str, str], adds_bos: bool, template: str | None) -> str:
    """Without the post-processor: it only adds BOS and EOS, and saving a tokenizer may change it."""
    content = json.loads(backend.to_str())
    content.pop("post_processor", None)
    settings = {"special_tokens": special, "adds_bos": adds_bos, "template": template}
    return digest(b"tokenizer", canonical_json(content), canonical_json(settings))


def _adds_bos(backend: Tokenizer, config: dict[str, Any], bos_id: int) -> bool:
    """Whether the tokenizer starts a text with BOS, by its settings, else by its post-processor.

    As in transformers: if one of the two settings is present, a missing one is off.
    """
    if "add_bos_token" in config or "add_eos_token" in config:
        return bool(config.get("add_bos_token", False))
    return list(backend.encode("a", add_special_tokens=True).ids[:1]) == [bos_id]


def _id_of(backend: Tokenizer, special: dict[str, str], name: str) -> int | None:
    """The id of a named special token; None if the tokenizer has no such token."""
    if name not in special:
        return None
    token_id = backend.token_to_id(special[name])
    if token_id is None:
        raise MismatchError(
            f"tokenizer: its {name} {special[name]!r} is not in its vocabulary; tokenizer_config.json and "
            f"tokenizer.json are of two different tokenizers: restore the pair"
        )
    return int(token_id)


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    texts = {}
    for name in SPECIAL_TOKENS:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            texts[name] = text
    return texts


def _read_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json over the older special_tokens_map.json; a bare tokenizer.json has neither."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            try:
                merged |= json.loads(_read(path))
            except (ValueError, TypeError) as error:
                raise SettingsError(f"tokenizer {path}: not a JSON object ({error}); restore it") from None
    return merged


def _own_template(directory: Path, config: dict[str, Any]) -> str | None:
    """The directory's chat template: its own file, else in the settings, where it may be one of several by name."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return _read(path)
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror}); name a file that exists") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
