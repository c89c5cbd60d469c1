"""The options that commands share, and how they become one validated configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from logitlake.flows.terminal.output import Format
from logitlake.pipeline.settings.models import Config, load_config
from logitlake.storage.errors import QueryError, SettingsError
from logitlake.storage.lake.location import LakeLocation

DEFAULT_CONFIG = Path("logitlake.yaml")


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.find_root().obj = {"debug": True}
    return value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="LOGITLAKE_CONFIG",
        help="YAML file with the settings; default: ./logitlake.yaml if there is one.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.KEY=VALUE", help="Override a setting; the value is YAML. Repeatable."),
]
LakePath = Annotated[
    Path | None, typer.Option("--lake", "-l", help="Directory of the lake (lake.path).", show_default=False)
]
OutputFormat = Annotated[Format, typer.Option("--format", "-f", help="How results are written to standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show where it came from.", callback=_remember_debug)]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Teacher tokens to spend at most (capture.max_tokens).", show_default=False),
]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", help="Start no unit after this time (capture.max_hours).", show_default=False),
]
TargetBytes = Annotated[
    float | None,
    typer.Option(
        "--target-bytes",
        help="Choose the threshold by a probe so that a token takes this many bytes (target.target_bytes).",
        show_default=False,
    ),
]


def settings(config_file: Path | None, overrides: Sequence[str] | None, flags: dict[str, Any] | None = None) -> Config:
    """The configuration of a command: file, then `--set`, then the command's own flags, which are None if not given.

    Raises SettingsError for a file that is missing, an unknown setting, or a value out of bounds.
    """
    if config_file is None and DEFAULT_CONFIG.is_file():
        config_file = DEFAULT_CONFIG
    given = [f"{key}={json.dumps(_plain(value))}" for key, value in (flags or {}).items() if value is not None]
    return load_config(config_file, (*(overrides or ()), *given))


def read_query(path: Path) -> str:
    """A query from its file. Raises QueryError if that can't be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"query file {path}: can't be read ({error})") from None


def location_of(config: Config) -> LakeLocation:
    """Where the lake of a configuration is."""
    return LakeLocation.resolve(config.lake.path, config.lake.catalog, config.lake.data)


def require_capture_settings(config: Config) -> None:
    """Refuse a configuration that names no teacher or no corpus. Raises SettingsError."""
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


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
