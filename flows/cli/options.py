"""Options as fields of a dataclass: shared options are declared once, and a flag names its setting."""

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from logitlake.flows.cli.completion import offer, offer_setting
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake

Options = TypeVar("Options", bound="DebugOption")


class SettingOption(OptionInfo):
    """An option whose value goes to the setting of a dotted name."""

    setting: str


def flag(setting: str, *names: str, help: str, **more: Any) -> SettingOption:
    """An option that sets `setting`; its help ends with that name. `names` and `more` are those of `typer.Option`."""
    option = SettingOption(default=names[0], param_decls=names[1:], help=f"{help} ({setting}).", **more)
    option.show_default = False
    option.setting = setting
    return option


def option(*names: str, help: str, **more: Any) -> OptionInfo:
    """An option that has no default to show."""
    made: OptionInfo = typer.Option(*names, help=help, show_default=False, **more)
    return made


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.find_root().obj = {"debug": True}
    return value


@dataclass(frozen=True, kw_only=True)
class DebugOption:
    """What every command takes."""

    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error.", callback=_remember_debug)
    ] = False


@dataclass(frozen=True, kw_only=True)
class LakeOptions(DebugOption):
    """What every command takes that works on a lake."""

    lake: Annotated[Path | None, flag("lake.path", "--lake", "-l", help="Directory of the lake")] = None
    config_file: Annotated[
        Path | None,
        option("--config", "-c", envvar="LOGITLAKE_CONFIG", help="YAML settings file; default: ./logitlake.yaml."),
    ] = None
    overrides: Annotated[
        list[str] | None,
        option(
            "--set",
            "-s",
            metavar="SECTION.KEY=VALUE",
            help="Set one setting; the value is YAML. Repeatable.",
            autocompletion=offer_setting,
        ),
    ] = None

    def config(self, **more: object) -> Config:
        """The settings: the file, then `--set`, then the flags of this command, then `more` by dotted name."""
        hints = get_type_hints(type(self), include_extras=True)
        flags = {
            option.setting: getattr(self, name)
            for name, hint in hints.items()
            for option in getattr(hint, "__metadata__", ())
            if isinstance(option, SettingOption)
        }
        return settings(self.config_file, self.overrides, {**flags, **more})


@dataclass(frozen=True, kw_only=True)
class ResultOptions(LakeOptions):
    """The same for a command that prints a result."""

    form: Annotated[Format, typer.Option("--format", "-f", help="Format of the result on standard output.")] = (
        Format.TABLE
    )


def with_options(command: Callable[[Options], None]) -> Callable[..., None]:
    """Turn a function of one options dataclass into one with a parameter per field, as Typer needs it.

    A command's own options come before the shared ones.
    """
    (kind,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    hints = get_type_hints(kind, include_extras=True)
    defaults = {
        field.name: inspect.Parameter.empty if field.default is MISSING else field.default for field in fields(kind)
    }
    names = [name for parent in kind.__mro__ for name in inspect.get_annotations(parent)]

    for hint in hints.values():
        _take_paths_as_text(hint)

    def call(**values: Any) -> None:
        for name, value in values.items():
            _check_value(name, value)
        command(kind(**values))

    call.__doc__, call.__annotations__ = command.__doc__, hints
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
            for name in names
        ]
    )
    return call


def _take_paths_as_text(hint: Any) -> None:
    """Let an option of a path refuse an empty text, which `Path` takes for the current directory."""
    kind, *infos = get_args(hint)
    if Path in (kind, *get_args(kind)):
        for info in infos:
            info.parser, info.metavar = _path, info.metavar or "PATH"


def _path(text: str | Path) -> Path:
    if not str(text):
        raise typer.BadParameter("expected a path, found an empty text; leave the option out, or name a path")
    return Path(text)


def _check_value(name: str, value: Any) -> None:
    """Refuse what no command can use: infinite numbers, and text that is not UTF-8."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, found {value}", param_hint=name)
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text != text.encode("utf-8", errors="ignore").decode():
            raise typer.BadParameter(f"expected UTF-8, found {text!r}", param_hint=name)


def writable_lake(config: Config) -> Lake:
    """The lake of a configuration, open for changes."""
    return Lake.open(location_of(config), read_only=False, lock_timeout=config.lake.lock_timeout_seconds)


MaxTokens = Annotated[
    int | None, flag("capture.max_tokens", "--max-tokens", help="Spend at most this many teacher tokens")
]
MaxHours = Annotated[
    float | None, flag("capture.max_hours", "--max-hours", help="Start no work unit after this many hours")
]
TargetBytes = Annotated[
    float | None,
    flag(
        "target.target_bytes",
        "--target-bytes",
        help="Choose the sparsifier's setting so that a token takes this many bytes",
    ),
]
Where = Annotated[str | None, flag("training.where", "--where", help="SQL condition over the view sequences")]
RecipeName = Annotated[
    str | None,
    flag("training.recipe", "--recipe", help="Recipe id or its beginning", autocompletion=offer("recipe")),
]
Alias = Annotated[str | None, flag("redistill.alias", "--alias", help="Name of the line of students")]
