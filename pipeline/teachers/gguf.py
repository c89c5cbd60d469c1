"""Converts a GGUF file to a safetensors directory in the user's cache, once and atomically."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from logitlake.pipeline.teachers.fingerprints import cache_directory
from logitlake.pipeline.teachers.load_errors import LOAD_ERRORS
from logitlake.pipeline.teachers.loading import check_whole
from logitlake.pipeline.teachers.origin import write_card
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import digest


def convert_gguf(path: Path) -> Path:
    """The directory that holds the model and tokenizer of a GGUF file in bfloat16; converts it if it is missing.

    The key is path, size and modification time. Two processes may convert at once; both use the first result.
    Raises SettingsError for a file that transformers can't read.
    """
    path = path.resolve()
    status = path.stat()
    key = digest(str(path).encode(), str(status.st_size).encode(), str(status.st_mtime_ns).encode())
    final = cache_directory() / "gguf" / f"{path.stem}-{key[:12]}"
    if (final / "config.json").is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, suffix=".tmp"))
    try:
        _save(path, staging)
        # Another process has renamed its identical directory first.
        with contextlib.suppress(FileExistsError, OSError):
            staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if not (final / "config.json").is_file():
        raise SettingsError(f"teacher {path}: could not write the converted model to {final}; check the disk")
    return final


def _save(path: Path, staging: Path) -> None:
    folder, name = str(path.parent), path.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise SettingsError(f"teacher {path}: transformers can't read this GGUF file ({error})") from None
    check_whole(model, found, f"teacher {path}")
    tokenizer.save_pretrained(staging)
    model.save_pretrained(staging)
    write_card(staging, _card(path))


def _card(path: Path) -> dict[str, Any]:
    """Licence and base models by the file's own metadata, as a card names them."""
    fields = {name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith("general.")}
    bases = [
        "/".join(str(fields[name]) for name in names if name in fields)
        for number in range(int(fields.get("general.base_model.count", 0)))
        for names in [[f"general.base_model.{number}.{part}" for part in ("organization", "name")]]
    ]
    card = {"license": fields.get("general.license"), "base_model": [base for base in bases if base]}
    return {name: value for name, value in card.items() if value}
