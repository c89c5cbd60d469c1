"""What a figure was measured on: commit, machine and versions, without naming anybody's directories."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from logitlake.pipeline.teachers.dtype import resolve_dtype

REPOSITORY = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "transformers", "duckdb", "pyarrow", "numpy")


def describe_machine() -> dict[str, Any]:
    """Commit (and whether files differ from it), hardware, how busy it was, and versions."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "computes_in": resolve_dtype("auto", "auto"),
            **_accelerators(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _accelerators() -> dict[str, Any]:
    """Names of the accelerators that torch sees; nothing on a machine without."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"accelerators": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]}


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
