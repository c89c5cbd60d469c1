"""The engine that the settings name. Loads torch only when a teacher is loaded."""

from importlib.metadata import EntryPoint
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TargetSettings, TeacherSettings
from logitlake.pipeline.settings.registry import ENGINES
from logitlake.pipeline.teachers.engine import Engine, EngineKind
from logitlake.pipeline.teachers.top_k_engine import LoadTopKTeacher, TopKEngine
from logitlake.storage.errors import SettingsError


def engine_kind(name: str) -> EngineKind:
    """The EngineKind of an engine. Raises SettingsError for an unknown or broken one."""
    kind = ENGINES.load(name)
    if not isinstance(kind, EngineKind):
        raise SettingsError(
            f"engine {name!r} of {ENGINES.origin(name)}: expected an EngineKind, found {kind!r}; update or uninstall "
            "that distribution"
        )
    return kind


def check_engine(settings: TeacherSettings, target: TargetSettings) -> EngineKind:
    """The kind of the engine in the settings. Raises SettingsError if it does not give what the targets need."""
    kind = engine_kind(settings.engine)
    if kind.gives == "distribution":
        return kind
    engine = f"teacher.engine {settings.engine} gives only the k most probable ids and their log-probs"
    if target.sparsifier != "top_k":
        raise SettingsError(
            f"target.sparsifier {target.sparsifier}: needs the whole distribution, and {engine}, so that no target can "
            "be unbiased; set target.sparsifier to top_k, which is biased, or choose an engine that gives the "
            "distribution"
        )
    if target.temperature != 1:
        raise SettingsError(
            f"target.temperature {target.temperature:g}: needs the whole distribution, and {engine} at temperature 1; "
            "set target.temperature to 1, or choose an engine that gives the distribution"
        )
    if target.target_bytes is not None:
        raise SettingsError(
            f"target.target_bytes {target.target_bytes:g}: is chosen by a probe of whole distributions, and {engine}; "
            "set target.k in its place"
        )
    return kind


def load_engine(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int) -> Engine:
    """The teacher of `files` in the engine that the settings name, probed with sequences of up to `window` tokens.

    Raises SettingsError if it can't be loaded or gives too little, MismatchError if it has fewer output rows than the
    tokenizer has ids, or if a target would not depend on its own document only (`probe`).
    """
    kind = engine_kind(settings.engine)
    if kind.gives != "distribution":
        raise SettingsError(
            f"teacher.engine {settings.engine}: this needs the whole distribution, and the engine gives only the k "
            "most probable ids; choose an engine that gives the distribution"
        )
    load = _load_function(settings, kind)
    more = {"window": window} if kind.takes_window else {}
    engine = load(settings, files, vocab_size=vocab_size, **more)
    if kind.is_recorded:
        return engine
    # Imported here: the probe needs torch, as every loaded teacher does.
    from logitlake.pipeline.teachers.probe import probed

    return probed(engine, window=window, name=files.name)


def load_any_engine(
    settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int
) -> Engine | TopKEngine:
    """As load_engine, also where the engine gives only the most probable ids."""
    kind = engine_kind(settings.engine)
    if kind.gives == "distribution":
        return load_engine(settings, files, vocab_size=vocab_size, window=window)
    load: LoadTopKTeacher = _load_function(settings, kind)
    return load(settings, files, vocab_size=vocab_size, window=window)


def _load_function(settings: TeacherSettings, kind: EngineKind) -> Any:
    try:
        return EntryPoint(settings.engine, kind.load, ENGINES.group).load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"teacher.engine {settings.engine} of {ENGINES.origin(settings.engine)}: can't import {kind.load}: "
            f"{error}; install what it needs, or choose another engine"
        ) from error
