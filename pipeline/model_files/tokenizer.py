"""The tokenizer of a teacher or student, as transformers reads its files.

transformers decides by the files beside `tokenizer.json`, and by the kind of model, which normalizer, cuts, added and
special tokens are in effect. Its answer is asked for once and cached by the content of the files, because asking
imports torch. Where it gives other ids than `tokenizer.json` alone, its tokenizer is the one in use.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from logitlake.pipeline.model_files.fingerprints import cache_directory, read_json, write_json
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.pipeline.tokens.tokenizer import SPECIAL_TOKENS, TextTokenizer
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import digest

# Raise it with every change of what is compared: cached answers are then made anew.
_METHOD = b"tokenizer 1"
# What transformers reads to make a tokenizer. Chat templates are no part: no id of a text depends on them.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tiktoken.model",
    "tekken.json",
)


def load_tokenizer(
    directory: Path, *, chat_template: Path | None = None, trust_remote_code: bool = False
) -> TextTokenizer:
    """The tokenizer of a directory, with the ids of `AutoTokenizer` on the same files.

    `chat_template` is a Jinja file to use in place of the directory's own. Raises SettingsError for files that are
    missing or unreadable, or that transformers can't make a tokenizer of.
    """
    answer = _cached_answer(directory, trust_remote_code)
    return TextTokenizer.load(
        directory, chat_template=chat_template, backend=answer.get("backend"), config=answer.get("config")
    )


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds files of which a tokenizer is made."""
    return any(
        (directory / name).is_file() for name in TOKENIZER_FILES if not name.endswith(("config.json", "map.json"))
    )


def _cached_answer(directory: Path, trust_remote_code: bool) -> Mapping[str, Any]:
    """`backend` (JSON) and `config` where they differ from what the files say; empty where they do not."""
    entry = cache_directory() / "tokenizers" / f"{_key(directory, trust_remote_code)}.json"
    cached = read_json(entry)
    if isinstance(cached, dict):
        return cached
    answer = _answer(directory, trust_remote_code)
    write_json(entry, answer)
    return answer


def _key(directory: Path, trust_remote_code: bool) -> str:
    names = [*TOKENIZER_FILES, "config.json"]
    if trust_remote_code:
        names += sorted(path.name for path in directory.glob("*.py"))
    parts = [version("transformers").encode(), version("tokenizers").encode(), str(trust_remote_code).encode()]
    for name in names:
        path = directory / name
        if path.is_file():
            parts += [name.encode(), hashlib.sha256(path.read_bytes()).digest()]
    return digest(_METHOD, *parts)


def _answer(directory: Path, trust_remote_code: bool) -> dict[str, Any]:
    """What transformers says, as far as it is not what `TextTokenizer` reads of the files itself."""
    own = TextTokenizer.load(directory) if (directory / "tokenizer.json").is_file() else None
    if own is None and not has_tokenizer(directory):
        TextTokenizer.load(directory)  # says what is missing
    loaded = read_with_transformers(directory, trust_remote_code)
    backend: Tokenizer = loaded.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    special = {name: str(token) for name, token in loaded.special_tokens_map.items() if isinstance(token, str)}
    bos = loaded.bos_token_id
    adds_bos = bos is not None and list(loaded("a").input_ids[:1]) == [bos]
    answer: dict[str, Any] = {}
    if own is None or first_difference(own.backend, backend) is not None:
        answer["backend"] = backend.to_str()
    if own is None or (own.bos_id, own.eos_id, own.adds_bos) != (bos, loaded.eos_token_id, adds_bos):
        config = {name: special[name] for name in SPECIAL_TOKENS if name in special}
        answer["config"] = {**config, "add_bos_token": adds_bos}
    return answer


def read_with_transformers(directory: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer that transformers makes of a directory. Its result doesn't depend on the package mistral-common.

    Raises SettingsError for files that it can't read, and for a tokenizer with code of its own.
    """
    # Imported here: it imports torch, and the answer is cached.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        if (directory / "config.json").is_file():
            # With mistral-common installed, a tekken.json would otherwise count in place of the tokenizer.json.
            loaded = AutoTokenizer.from_pretrained(directory, mistral_format=False, **options)
        else:
            # Nothing says which kind of model it is.
            loaded = PreTrainedTokenizerFast.from_pretrained(directory, **options)
    except Exception as error:  # tokenizers raises the bare class
        raise SettingsError(
            f"tokenizer {directory}: transformers can't read it ({error}); restore the files, or save it again by "
            "save_pretrained"
        ) from None
    if not isinstance(getattr(loaded, "backend_tokenizer", None), Tokenizer):
        raise SettingsError(
            f"tokenizer {directory}: expected one that the library `tokenizers` runs, found {type(loaded).__name__}, "
            "which has code of its own; convert it to a tokenizer.json"
        )
    return loaded
