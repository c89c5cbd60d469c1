"""The tokenizer that a student needs: the recipe's, or the student would read other ids than it was taught."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def check_tokenizer(directory: Path, recipe: Mapping[str, Any], *, chat_template: Path | None = None) -> None:
    """Refuse a tokenizer or chat template that is not the recipe's, with both fingerprints (MismatchError).

    `chat_template` is the file that stood in for the tokenizer's own template when the cache was made, if one did.
    """
    tokenizer = TextTokenizer.load(directory, chat_template=chat_template)
    if tokenizer.fingerprint != recipe["tokenizer"]:
        raise MismatchError(
            f"tokenizer of the student ({directory}): fingerprint {tokenizer.fingerprint}, the recipe's is "
            f"{recipe['tokenizer']}. The cached ids mean other text to this student: start from a student with the "
            "teacher's tokenizer, or capture with this one"
        )
    if tokenizer.template_hash != recipe["chat"]["template"]:
        raise MismatchError(
            f"chat template of the student ({directory}): fingerprint {tokenizer.template_hash}, the recipe's is "
            f"{recipe['chat']['template']}. Set tokenization.chat_template to the file that the capture used"
        )


def copy_tokenizer(source: Path, destination: Path, *, chat_template: Path | None = None) -> None:
    """Put the tokenizer's files, byte for byte, beside the student's weights."""
    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    if chat_template is not None:
        shutil.copyfile(chat_template, destination / "chat_template.jinja")
