"""Checks that a student has the recipe's tokenizer, and copies it beside the student's weights."""

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
    """Raise MismatchError, with both fingerprints, if tokenizer or chat template are not the recipe's.

    `chat_template` is the file that replaced the tokenizer's template in the capture, if any.
    """
    tokenizer = TextTokenizer.load(directory, chat_template=chat_template)
    if tokenizer.fingerprint != recipe["tokenizer"]:
        raise MismatchError(
            f"tokenizer of the student ({directory}): expected fingerprint {recipe['tokenizer']} of the recipe, found "
            f"{tokenizer.fingerprint}; start from a student with the teacher's tokenizer, or capture with this one"
        )
    if tokenizer.template_hash != recipe["chat"]["template"]:
        raise MismatchError(
            f"chat template of the student ({directory}): expected fingerprint {recipe['chat']['template']} of the "
            f"recipe, found {tokenizer.template_hash}; set tokenization.chat_template to the file that the capture used"
        )


def copy_tokenizer(source: Path, destination: Path, *, chat_template: Path | None = None) -> None:
    """Copy the tokenizer's files, byte for byte, beside the student's weights."""
    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    if chat_template is not None:
        shutil.copyfile(chat_template, destination / "chat_template.jinja")
