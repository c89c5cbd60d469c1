"""From a file, overrides and flags to the validated configuration of a command."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import QueryError, SettingsError

DEFAULT_CONFIG = Path("logitlake.yaml")


def settings(
    config_file: Path | None, overrides: Sequence[str] | None, flags: Mapping[str, object] | None = None
) -> Config:
    """The configuration of a command: file, then `--set`, then the command's flags by setting; None is not given.

    Raises SettingsError for a file that is missing, an unknown setting, or a value out of bounds.
    """
    if config_file is None and DEFAULT_CONFIG.is_file():
        config_file = DEFAULT_CONFIG
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return load_config(config_file, overrides or (), given)


def read_query(path: Path) -> str:
    """The query in a file. Raises QueryError if the file can't be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"query file {path}: could not be read ({error})") from None


def location_of(config: Config) -> LakeLocation:
    """The location of the lake."""
    return LakeLocation.resolve(config.lake.path, config.lake.catalog, config.lake.data)


def require_capture_settings(config: Config) -> None:
    """Check that the settings name a teacher and a corpus. Raises SettingsError."""
    if config.teacher is None:
        raise SettingsError(
            "teacher: expected the model to capture from, found nothing: set teacher.model in logitlake.yaml, or by "
            "--set teacher.model=… (a hub id or a directory)"
        )
    if not config.corpora:
        raise SettingsError(
            "corpora: expected at least one source of documents, found none: list one in logitlake.yaml with name, "
            "kind and path (`logitlake show config` prints every setting)"
        )
