"""Names of runs in Prefect, from the settings and the lake's commit number."""

import json
import re
from pathlib import Path

from prefect.runtime import flow_run

from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake

_HUB_CACHE = re.compile(r"models--(?:[^/]+--)?([^/]+)/snapshots/")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def settings_of_run() -> Config:
    """The configuration of the current flow run."""
    config = flow_run.parameters["config"]
    return config if isinstance(config, Config) else Config.model_validate(config)


def teacher_label(config: Config) -> str:
    """The teacher by the name that people know it by, rather than by the folder in which it lies."""
    return "no teacher" if config.teacher is None else model_label(config.teacher.model, config.teacher.gguf_file)


def model_label(model: str, gguf_file: str | None = None) -> str:
    """The last part of a hub id, also in the hub's cache; a GGUF file's name; the model that a config names."""
    place = Path(gguf_file or model)
    if place.suffix == ".gguf":
        return place.stem
    if cached := _HUB_CACHE.search(model):
        return cached[1]
    return _name_in_config(Path(model).expanduser()) or model.rstrip("/").rpartition("/")[2]


def _name_in_config(directory: Path) -> str | None:
    """The hub id that transformers wrote into a config; None for a directory or a hub id without it."""
    try:
        name = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name.rpartition("/")[2] if isinstance(name, str) and _HUB_ID.fullmatch(name) else None


def last_commit(config: Config) -> int:
    """The lake's commit number; 0 if there is no lake yet."""
    try:
        with Lake.open(location_of(config)) as lake:
            return lake.commit_number
    except LakeMissingError:
        return 0
