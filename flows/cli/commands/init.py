"""`logitlake init`: a first settings file for what lies in a directory."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from logitlake.flows.cli.first_settings import documents_text, first_settings
from logitlake.flows.cli.options import DebugOption, option
from logitlake.flows.settings import DEFAULT_CONFIG
from logitlake.flows.terminal.output import say
from logitlake.pipeline.corpus.names import escaped
from logitlake.pipeline.corpus.survey.survey import Survey, survey
from logitlake.pipeline.settings.loading import load_config
from logitlake.storage.errors import CorpusError, SettingsError

# Without a look at the teacher: a third of the layers of many models of 1 to 2 billion parameters.
_LAYERS = 10
_WINDOW = 512


@dataclass(frozen=True, kw_only=True)
class InitOptions(DebugOption):
    """Where to look, and what to write."""

    directory: Annotated[
        Path, typer.Argument(help="Directory of documents, or one file.", show_default=False, parser=Path)
    ] = Path()
    teacher: Annotated[
        str | None, option("--teacher", help="The model that is run once: hub id or directory (teacher.model).")
    ] = None
    config_file: Annotated[
        Path | None,
        option("--config", "-c", envvar="LOGITLAKE_CONFIG", help="File to write; default: ./logitlake.yaml."),
    ] = None


def init(options: InitOptions) -> None:
    """Write a first logitlake.yaml for the documents in a directory, and say what to run next.

    Looks into JSON Lines, Parquet and text files: which field holds text, prompts and completions, or chats (also in
    the form of ShareGPT), and about how many tokens there are. An existing file is never overwritten.
    """
    path = options.config_file or DEFAULT_CONFIG
    if path.exists() or path.is_symlink():
        raise SettingsError(f"{path} exists and is not overwritten: name another file with --config, or remove it")
    found = survey(options.directory, Path.cwd())
    if not found.corpora:
        raise _nothing_found(options.directory, found)
    layers, positions = _shape_of(options.teacher)
    text = first_settings(
        found,
        options.directory,
        teacher=options.teacher,
        layers=_LAYERS if layers is None else max(1, round(layers / 3)),
        window=_WINDOW if positions is None else min(_WINDOW, positions),
    )
    # Refuses a teacher's name that no settings can hold.
    load_config(None, (), {"teacher.model": options.teacher} if options.teacher is not None else {})
    _write(path, text)
    _report(path, found, has_teacher=options.teacher is not None)


def _nothing_found(directory: Path, found: Survey) -> CorpusError:
    left_out = "".join(f"\n  left out: {sentence}" for sentence in found.left_out[:10])
    return CorpusError(
        f"{escaped(str(directory))}: expected JSON Lines (*.jsonl, *.ndjson, also .gz and .zst), Parquet or text files "
        f"with documents, found none; name another directory{left_out}"
    )


def _shape_of(teacher: str | None) -> tuple[int | None, int | None]:
    """Layers and positions of a teacher whose config lies in a directory here; None where that does not tell."""
    try:
        config = json.loads((Path(teacher or "") / "config.json").read_text(encoding="utf-8")) if teacher else {}
    except (OSError, ValueError):
        return None, None
    if not isinstance(config, dict):
        return None, None
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    return _whole(config.get("num_hidden_layers")), _whole(config.get("max_position_embeddings"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SettingsError(f"{path}: can't be written ({error.strerror}); name another file with --config") from None


def _report(path: Path, found: Survey, *, has_teacher: bool) -> None:
    say(f"Wrote {path}:")
    for draft in found.corpora:
        say(f"  {draft.settings['name']}: {draft.shape}; {documents_text(draft)}")
    for sentence in found.left_out[:5]:
        say(f"  left out: {sentence}")
    if len(found.left_out) > 5:
        say(f"  left out: {len(found.left_out) - 5:,} more, listed in the file")
    if not has_teacher:
        say(f"Fill in teacher.model in {path}: the model that is run once.")
    given = "" if path == DEFAULT_CONFIG else f" --config {shlex.quote(str(path))}"
    say("Next:")
    say(f"  logitlake plan{given}       # what a capture would compute, write and cost")
    say(f"  logitlake capture{given}    # run the teacher over the documents, once")
    say(f"  logitlake train{given}      # train a student from the lake")
