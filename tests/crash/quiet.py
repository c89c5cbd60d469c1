"""The environment of a campaign: no network, no progress bars, one thread a process, a cache of its own."""

import os
from pathlib import Path
from typing import Any


def set_environment(directory: Path) -> None:
    """Called before torch and transformers are imported; children inherit it."""
    names: dict[str, Any] = {"OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1, "HF_HUB_DISABLE_PROGRESS_BARS": 1}
    names |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": 1, "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update({name: str(value) for name, value in names.items()}, LOGITLAKE_CACHE=str(directory / "cache"))
