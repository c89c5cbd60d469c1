"""The tokenizer that a GGUF file describes, built with `tokenizers` from its metadata.

A GGUF file holds the vocabulary, the merges or scores, and the name of the rule that cuts a text. What it does not say
(the rule of an unknown name) can't be guessed: such a file is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from logitlake.pipeline.tokens.gguf.entries import UnknownTokenizerError, check_entries
from logitlake.pipeline.tokens.gguf.metadata import read_metadata
from logitlake.pipeline.tokens.gguf.splits import SPLITS
from logitlake.storage.errors import SettingsError

_PREFIX = "tokenizer.ggml."
# What converters write for rows of the embedding that have no token.
_NO_TOKEN = re.compile(r"\[PAD(\d+)\]")
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_SPACE = "\u2581"
# Of other architectures (Gemma, Baichuan) scores or spaces have another meaning.
_COMPARED_PIECES = ("llama", "phi3")
# Phi-3's own tokenizer.json: all its added tokens but these take the white space that follows them.
_PHI3_KEEPS_SPACE_AFTER = {"<unk>", "<s>", "<|endoftext|>"}
ADVICE = (
    "use the original checkpoint in place of the GGUF file, or set teacher.gguf_tokenizer to transformers, to take the "
    "conversion of transformers as it is"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTokenizer:
    """`settings` are keywords of `PreTrainedTokenizerFast`: named tokens, the BOS and EOS rule, the chat template."""

    backend: Tokenizer
    settings: dict[str, Any]


def read_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """The tokenizer of a GGUF file. Raises SettingsError if the file does not describe one that is known here."""
    try:
        return build_gguf_tokenizer(read_metadata(path))
    except UnknownTokenizerError as error:
        raise SettingsError(f"teacher {path}: {error}; {ADVICE}") from None


def build_gguf_tokenizer(metadata: Mapping[str, Any]) -> GgufTokenizer:
    """The tokenizer of the metadata of a file. Raises UnknownTokenizerError."""
    check_entries(metadata)
    kind = metadata.get(f"{_PREFIX}model")
    if kind not in _BUILDERS:
        raise UnknownTokenizerError(
            f"expected a tokenizer of kind {', '.join(sorted(_BUILDERS))} in {_PREFIX}model, found {kind}"
        )
    for name in (f"{_PREFIX}tokens", *_NEEDED[kind]):
        if metadata.get(name) is None:
            raise UnknownTokenizerError(f"expected the entry {name} for a tokenizer of kind {kind}, found none")
    vocabulary = {
        token: number
        for number, token in enumerate(metadata[f"{_PREFIX}tokens"])
        if not ((match := _NO_TOKEN.fullmatch(token)) and int(match[1]) == number)
    }
    try:
        backend, adds_bos = _BUILDERS[kind](metadata, vocabulary)
    except UnknownTokenizerError:
        raise
    except Exception as error:  # tokenizers raises the bare class
        raise UnknownTokenizerError(f"its vocabulary and merges do not fit together ({error})") from None
    _add_tokens(backend, metadata, vocabulary)
    settings: dict[str, Any] = {
        "add_bos_token": _flag(metadata, "add_bos_token", adds_bos),
        "add_eos_token": _flag(metadata, "add_eos_token", False),
    }
    for name, key in _NAMED.items():
        if (number := metadata.get(_PREFIX + key)) is not None:
            settings[name] = metadata[f"{_PREFIX}tokens"][number]
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return GgufTokenizer(backend=backend, settings=settings)


def _byte_level(metadata: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    name = metadata.get(f"{_PREFIX}pre")
    if name not in SPLITS:
        found = "no such entry, so that nothing says how it cuts a text" if name is None else repr(name)
        raise UnknownTokenizerError(f"expected one of {', '.join(sorted(SPLITS))} in {_PREFIX}pre, found {found}")
    split = SPLITS[name]
    model = models.BPE(vocab=vocabulary, merges=_pairs(metadata[f"{_PREFIX}merges"]), ignore_merges=split.whole_words)
    backend = Tokenizer(model)
    if split.normalizer is not None:
        backend.normalizer = split.normalizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence(split.steps())
    backend.decoder = decoders.ByteLevel()
    return backend, split.adds_bos


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    """Merges by score. A space before the text, also if it begins with one; none if the file says so."""
    if (architecture := metadata.get("general.architecture")) not in _COMPARED_PIECES:
        raise UnknownTokenizerError(
            f"expected general.architecture {' or '.join(_COMPARED_PIECES)} with a tokenizer of kind llama, found "
            f"{architecture}: its rules for merges and spaces were not compared"
        )
    scores = metadata[f"{_PREFIX}scores"]
    merges = _merges_of_scores(vocabulary, scores)
    prefix = [normalizers.Prepend(_SPACE)] if _flag(metadata, "add_space_prefix", True) else []
    backend = _piece_backend(metadata, vocabulary, merges)
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    return backend, True


def _gemma4(metadata: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    """Pieces with merges of their own, and no space before the text."""
    backend = _piece_backend(metadata, vocabulary, _pairs(metadata[f"{_PREFIX}merges"]))
    backend.normalizer = normalizers.Replace(" ", _SPACE)
    return backend, True


def _piece_backend(metadata: Mapping[str, Any], vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    unknown = metadata[f"{_PREFIX}tokens"][metadata.get(f"{_PREFIX}unknown_token_id") or 0]
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _gemma4}
_NEEDED = {"gpt2": [f"{_PREFIX}merges"], "llama": [f"{_PREFIX}scores"], "gemma4": [f"{_PREFIX}merges"]}


def _flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    found = metadata.get(_PREFIX + name)
    return default if found is None else bool(found)


def _pairs(merges: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [merge.partition(" ") for merge in merges]
    return [(first, second) for first, _, second in pairs]


def _merges_of_scores(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Each pair of tokens that makes a token, those of the highest score first."""
    found = []
    for token, number in vocabulary.items():
        for cut in range(1, len(token)):
            first, second = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if first is not None and second is not None:
                found.append((-scores[number], number, first, second, token[:cut], token[cut:]))
    return [(first, second) for *_, first, second in sorted(found)]


def _add_tokens(backend: Tokenizer, metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Control tokens are special, tokens of the user are not; both are found in a text before anything else."""
    phi3 = metadata.get("general.architecture") == "phi3"
    special, plain = [], []
    for token, kind in zip(metadata[f"{_PREFIX}tokens"], metadata.get(f"{_PREFIX}token_type") or (), strict=False):
        if token not in vocabulary:
            continue
        takes_space = phi3 and token not in _PHI3_KEEPS_SPACE_AFTER
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            special.append(AddedToken(token, special=True, normalized=False, rstrip=takes_space))
        elif kind == TokenType.USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False, rstrip=takes_space))
    backend.add_special_tokens(special)
    backend.add_tokens(plain)
