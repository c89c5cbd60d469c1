"""Finds a teacher's files from a hub id, a directory or a GGUF file, and hashes them, before the model is loaded.

Needs torch only to convert a GGUF file, once. Code after planning reads `TeacherFiles`, never the setting.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from logitlake.pipeline.model_files.config_hash import hash_config
from logitlake.pipeline.model_files.fingerprints import hash_adapter, hash_weights
from logitlake.pipeline.model_files.origin import CARD, TeacherOrigin, find_origin
from logitlake.pipeline.model_files.recording import read_recording
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import FACTS, canonical_json, digest

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", CARD)
_NAMES = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputedBy:
    """What the recipe says of how numbers are made: engine, dtype, and the engine's options that decide them."""

    engine: str
    dtype: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFiles:
    """A teacher on this disk: `directory` holds its weights and tokenizer, `name` is its family and size.

    `config_hash` covers what its config decides beside the tensors; None in recipes of an older logitlake.
    `served_as`: the name of a teacher whose weights only a server has. `teacher_hash` is then the hash of that name:
    nothing here can tell whether the server still has the same weights.
    `has_weights`: whether `directory` has them. `computed_by` says what made the numbers of a recording.
    """

    directory: Path
    teacher_hash: str
    name: str
    n_parameters: int = 0
    adapter_directory: Path | None = None
    adapter_hash: str | None = None
    config_hash: str | None = None
    served_as: str | None = None
    has_weights: bool = True
    computed_by: ComputedBy | None = field(default=None, compare=False)
    origin: TeacherOrigin | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSource:
    """What a process needs to load the teacher; it can be pickled.

    `vocabulary` is the tokenizer's size, `window` the longest sequence.
    """

    settings: TeacherSettings
    files: TeacherFiles
    vocabulary: int
    window: int


def resolve_teacher(settings: TeacherSettings) -> TeacherFiles:
    """Find, fetch or convert the teacher's files, and hash them.

    Of a teacher behind a server or in a recording only the tokenizer is needed: a hub id is not asked for more, and a
    directory may hold no weights. Raises SettingsError that says what was tried when there is no such teacher, or no
    weights that may be loaded, MismatchError for weights that are not those of the recording.
    """
    directory = _directory(settings)
    if settings.trust_remote_code:
        refuse_foreign_code(directory)
    if settings.is_served and (_is_on_hub(settings) or not _has_weights(directory)):
        return _served(settings, directory)
    if settings.is_replayed:
        return _recorded(settings, directory)
    return _local(settings, directory)


def _local(settings: TeacherSettings, directory: Path) -> TeacherFiles:
    """A teacher whose weights are in `directory`."""
    _refuse_adapter_beside(directory)
    weights = _weight_files(directory, settings)
    teacher_hash, n_parameters = hash_weights(weights)
    adapter = None if settings.adapter is None else _adapter(settings)
    model_type = _model_type(directory)
    return TeacherFiles(
        directory=directory,
        teacher_hash=teacher_hash,
        config_hash=hash_config(directory, trust_remote_code=settings.trust_remote_code),
        origin=find_origin(settings.model, settings.revision, directory),
        name=f"{model_type}-{_short(n_parameters)}",
        n_parameters=n_parameters,
        adapter_directory=adapter,
        adapter_hash=None if adapter is None else hash_adapter(adapter, _weight_files(adapter, settings)),
    )


def check_same_teacher(files: TeacherFiles, recipe: Mapping[str, Any]) -> None:
    """Raises MismatchError unless these are the weights, the adapter and the config of a recipe."""
    expected = {name: recipe["teacher"].get(name) for name in ("weights", "adapter", "config")}
    expected["config"] = expected["config"] or recipe.get(FACTS, {}).get("teacher_config")
    found = {"weights": files.teacher_hash, "adapter": files.adapter_hash, "config": files.config_hash}
    if expected["config"] is None:
        # A recipe of an older logitlake that no capture has gone on with.
        found["config"] = None
    other = [name for name in expected if expected[name] != found[name]]
    if other:
        raise MismatchError(
            f"teacher {files.directory}: "
            + ", ".join(f"expected {name} {expected[name]} as in the recipe, found {found[name]}" for name in other)
            + "; set the teacher that made the cache"
        )


def _is_on_hub(settings: TeacherSettings) -> bool:
    return not Path(settings.model).expanduser().exists()


def _has_weights(directory: Path) -> bool:
    return any(next(directory.glob(kind), None) is not None for kind in ("*.safetensors", *_PICKLES))


def _served(settings: TeacherSettings, directory: Path) -> TeacherFiles:
    """A teacher that is known by its name on the server, and by `teacher.server.version` where somebody set one."""
    assert settings.server is not None
    if settings.adapter is not None:
        raise SettingsError(
            f"teacher.adapter {settings.adapter}: this teacher's weights are on the server alone; name the served "
            "adapter by teacher.server.model, and leave teacher.adapter out"
        )
    name = settings.server.model or settings.model
    version = settings.server.version
    origin = find_origin(name, version, directory)
    return TeacherFiles(
        directory=directory,
        teacher_hash=digest(b"served", canonical_json([name, version])),
        served_as=name,
        has_weights=False,
        origin=replace(origin, revision=version),
        name=name.rstrip("/").rpartition("/")[2],
    )


_PARTS = {"teacher_hash": "weights", "adapter_hash": "adapter", "config_hash": "config"}


def _recorded(settings: TeacherSettings, directory: Path) -> TeacherFiles:
    """The teacher of a recording. Raises MismatchError if `directory` holds a teacher, and it is another one: a student
    may be cut from it, and traces written by it."""
    assert settings.replay is not None
    recorded = read_recording(settings.replay.directory)
    teacher = recorded.teacher
    files = TeacherFiles(
        directory=directory,
        teacher_hash=teacher["weights"],
        name=teacher["name"],
        n_parameters=recorded.n_parameters,
        adapter_hash=teacher["adapter"],
        config_hash=teacher.get("config"),
        has_weights=_has_weights(directory),
        computed_by=ComputedBy(engine=teacher["engine"], dtype=teacher["dtype"], options=teacher.get("options", {})),
        origin=TeacherOrigin.from_dict(recorded.origin),
    )
    if not files.has_weights:
        return files
    here = _local(settings, directory)
    for part in ("teacher_hash", "adapter_hash", "config_hash"):
        expected, found = getattr(files, part), getattr(here, part)
        if found != expected:
            raise MismatchError(
                f"teacher.replay.recording {settings.replay.recording}: is of a teacher with {_PARTS[part]} "
                f"{expected or '(none)'}, and teacher.model {directory} with teacher.adapter "
                f"{settings.adapter or 'unset'} has {found or '(none)'}; set both to the teacher that was recorded, or "
                "name a directory with its tokenizer alone"
            )
    return replace(files, adapter_directory=here.adapter_directory)


def _directory(settings: TeacherSettings) -> Path:
    gguf = _gguf_file(settings)
    if gguf is None:
        return _local_or_hub(settings.model, settings.revision, "teacher.model", _patterns(settings))
    # Conversion needs torch and transformers: nothing else here does.
    from logitlake.pipeline.model_files.gguf import convert_gguf

    return convert_gguf(gguf, tokenizer=settings.gguf_tokenizer)


def _gguf_file(settings: TeacherSettings) -> Path | None:
    """The GGUF file that the settings mean, or None for an ordinary directory or hub id."""
    model = Path(settings.model).expanduser()
    if settings.gguf_file is None:
        if model.is_file() and model.suffix == ".gguf":
            return model
        candidates = sorted(model.glob("*.gguf")) if model.is_dir() and not (model / "config.json").exists() else []
        if len(candidates) > 1:
            names = ", ".join(path.name for path in candidates)
            raise SettingsError(f"teacher.model {model}: holds several GGUF files ({names}); name one by gguf_file")
        return candidates[0] if candidates else None
    named = Path(settings.gguf_file).expanduser()
    tried = [named, model / named] if named.is_absolute() or named.exists() else [model / named]
    for path in tried:
        if path.is_file():
            return path
    if not model.exists() and _HUB_ID.fullmatch(settings.model):
        name = settings.gguf_file
        path = _local_or_hub(settings.model, settings.revision, "teacher.model", [name]) / name
        if path.is_file():
            return path
    raise SettingsError(
        f"teacher.gguf_file {settings.gguf_file}: no such file; tried {', '.join(str(path) for path in tried)}"
    )


def _local_or_hub(name: str, revision: str | None, setting: str, patterns: list[str]) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(name):
        what = "a file" if path.exists() else "no such directory"
        raise SettingsError(
            f"{setting} {name}: {what} (looked at {path.absolute()}), and not a hub id either; "
            "expected a directory with config.json and *.safetensors, a GGUF file, or a hub id such as owner/name"
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"{setting} {name}: not a directory here (looked at {path.absolute()}), and can't be downloaded from "
            f"the Hugging Face hub: {reason}; check the name, log in by `hf auth login`, or name a directory"
        ) from None


def _patterns(settings: TeacherSettings) -> list[str]:
    code = ["*.py"] if settings.trust_remote_code else []
    if settings.is_served or settings.is_replayed:
        return [*_SMALL_FILES, *code]
    return [*_SMALL_FILES, "*.safetensors", *(_PICKLES if settings.allow_pickle else ()), *code]


def _adapter(settings: TeacherSettings) -> Path:
    assert settings.adapter is not None
    directory = _local_or_hub(settings.adapter, None, "teacher.adapter", _patterns(settings))
    if not (directory / "adapter_config.json").is_file():
        raise SettingsError(f"teacher.adapter {directory}: no adapter_config.json; expected a PEFT adapter")
    return directory


def _weight_files(directory: Path, settings: TeacherSettings) -> list[Path]:
    """The weights that transformers would load: those of the index if there is one, safetensors before pickles.

    Raises SettingsError where two sets of weights lie side by side.
    """
    if files := safetensors_files(directory):
        return files
    pickles = sorted(path for kind in _PICKLES for path in directory.glob(kind))
    if pickles and settings.allow_pickle:
        return pickles
    names = ", ".join(path.name for path in pickles)
    hint = f"; it has {names}, which can run code when loaded: set teacher.allow_pickle to true to trust it"
    raise SettingsError(f"teacher {directory}: expected *.safetensors, found none{hint if pickles else ''}")


def safetensors_files(directory: Path) -> list[Path]:
    """The safetensors that transformers would load, which are those that are hashed; none if there are none.

    Raises SettingsError where two sets of weights lie side by side.
    """
    index = directory / "model.safetensors.index.json"
    whole = directory / "model.safetensors"
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        if whole.is_file() and names != [whole.name]:
            raise SettingsError(
                f"weights {directory}: found {whole.name} and {index.name}, which names other files ({names[0]}, …); "
                "one of them is left from before: move it away"
            )
        return [directory / name for name in names]
    for path in (whole, directory / "adapter_model.safetensors"):
        if path.is_file():
            return [path]
    return sorted(directory.glob("*.safetensors"))


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor. Raises SettingsError for an index that is not one."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if names and all(isinstance(name, str) for name in names.values()):
            return dict(names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise SettingsError(f"weights {index}: expected a weight_map from tensors to files; copy the index again")


def _refuse_adapter_beside(directory: Path) -> None:
    """transformers would load the base model that the adapter names, in place of the weights here."""
    if (directory / "adapter_config.json").is_file():
        raise SettingsError(
            f"{directory}: found adapter_config.json beside the model, and transformers would load the adapter's own "
            "base model; set teacher.model to the base model and teacher.adapter to this directory, or, if the adapter "
            "is merged into these weights, move adapter_config.json and adapter_model.* away"
        )


def refuse_foreign_code(directory: Path) -> None:
    """Raises SettingsError where `auto_map` names code of another repository: it may change, and is not hashed."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            auto_map = json.loads((directory / name).read_text(encoding="utf-8")).get("auto_map", {})
        except (OSError, ValueError, AttributeError):
            continue
        values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
        references = [text for value in values for text in (value if isinstance(value, list) else [value])]
        for reference in references:
            if isinstance(reference, str) and "--" in reference:
                repository, _, code = reference.partition("--")
                raise SettingsError(
                    f"{directory / name}: auto_map names {reference}, code of the repository {repository}, which may "
                    "change while these files stay the same; expected code in this directory: copy the Python files of "
                    f"{repository} here and write {code} in auto_map, or set trust_remote_code to false"
                )


def _model_type(directory: Path) -> str:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(
            f"teacher {directory}: expected a config.json that names its model_type; save it by save_pretrained"
        ) from None


def _short(n: int) -> str:
    """134,515,008 as 135M."""
    for size, letter in _NAMES:
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return str(n)
