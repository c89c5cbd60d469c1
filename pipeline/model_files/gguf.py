"""Converts a GGUF file to a safetensors directory in the user's cache, once and atomically."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from logitlake.pipeline.model_files.fingerprints import cache_directory
from logitlake.pipeline.model_files.load_errors import LOAD_ERRORS
from logitlake.pipeline.model_files.loading import check_whole
from logitlake.pipeline.model_files.origin import write_card
from logitlake.pipeline.tokens.gguf.metadata import read_metadata
from logitlake.pipeline.tokens.gguf.tokenizer import ADVICE, GgufTokenizer, read_gguf_tokenizer
from logitlake.pipeline.tokens.same_ids import first_difference
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import digest

# Raise it when the same file gives another tokenizer than before.
_METHOD = b"tokenizer of the file 1"


def convert_gguf(path: Path, *, tokenizer: Literal["file", "transformers"] = "file") -> Path:
    """The directory that holds the model and tokenizer of a GGUF file in bfloat16; converts it if it is missing.

    The tokenizer is the one that the file describes, or the conversion of transformers, which leaves out some of the
    description. The key is path, size, modification time and tokenizer. Two processes may convert at once; both use
    the first result. Raises SettingsError for a file that transformers can't read, or whose tokenizer is not known.
    """
    path = path.resolve()
    status = path.stat()
    method = [_METHOD] if tokenizer == "file" else []
    key = digest(str(path).encode(), str(status.st_size).encode(), str(status.st_mtime_ns).encode(), *method)
    final = cache_directory() / "gguf" / f"{path.stem}-{key[:12]}"
    if (final / "config.json").is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, suffix=".tmp"))
    try:
        _save(path, staging, tokenizer)
        # Another process has renamed its identical directory first.
        with contextlib.suppress(FileExistsError, OSError):
            staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if not (final / "config.json").is_file():
        raise SettingsError(f"teacher {path}: could not write the converted model to {final}; check the disk")
    return final


def _save(path: Path, staging: Path, tokenizer: Literal["file", "transformers"]) -> None:
    folder, name = str(path.parent), path.name
    described = read_gguf_tokenizer(path) if tokenizer == "file" else None
    try:
        if described is None:
            AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(staging)
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
    model.save_pretrained(staging)
    if described is not None:
        _save_tokenizer(path, described, staging)
    write_card(staging, _card(path))


def _save_tokenizer(path: Path, described: GgufTokenizer, staging: Path) -> None:
    """Write it beside the model. Raises SettingsError if transformers then reads another one for this kind of model."""
    saved = PreTrainedTokenizerFast(tokenizer_object=described.backend, **described.settings)
    saved.save_pretrained(staging)
    loaded = AutoTokenizer.from_pretrained(staging)
    if (difference := first_difference(described.backend, loaded.backend_tokenizer)) is not None:
        raise SettingsError(
            f"teacher {path}: transformers reads its tokenizer in another way for this kind of model: "
            f"{difference.words('the file', 'transformers')}; {ADVICE}"
        )


def _card(path: Path) -> dict[str, Any]:
    """Licence and base models by the file's own metadata, as a card names them."""
    fields = {name: value for name, value in read_metadata(path).items() if isinstance(value, str) and value}
    bases = [
        "/".join(fields[name] for name in names if name in fields)
        for number in range(len(fields))
        for names in [[f"general.base_model.{number}.{part}" for part in ("organization", "name")]]
    ]
    card = {"license": fields.get("general.license"), "base_model": [base for base in bases if base]}
    return {name: value for name, value in card.items() if value}
