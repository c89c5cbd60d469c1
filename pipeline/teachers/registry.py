"""The engine that the settings name. Loads torch only when a teacher is loaded."""

from importlib.metadata import EntryPoint

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.settings.registry import ENGINES
from logitlake.pipeline.teachers.engine import Engine, EngineKind, LoadTeacher
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


def check_engine(settings: TeacherSettings) -> EngineKind:
    """The kind of the engine in the settings. Raises SettingsError if it does not give the whole distribution."""
    kind = engine_kind(settings.engine)
    if kind.gives != "distribution":
        raise SettingsError(
            f"teacher.engine {settings.engine}: capture and evaluation need the whole distribution, this engine gives "
            "only the most probable ids (top_k); choose another engine"
        )
    return kind


def load_engine(settings: TeacherSettings, files: TeacherFiles, *, vocab_size: int, window: int) -> Engine:
    """The teacher of `files` in the engine that the settings name, probed with sequences of up to `window` tokens.

    Raises SettingsError if it can't be loaded or gives too little, MismatchError if it has fewer output rows than the
    tokenizer has ids, or if a target would not depend on its own document only (`probe`).
    """
    kind = check_engine(settings)
    try:
        load: LoadTeacher = EntryPoint(settings.engine, kind.load, ENGINES.group).load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"teacher.engine {settings.engine} of {ENGINES.origin(settings.engine)}: can't import {kind.load}: "
            f"{error}; install what it needs, or choose another engine"
        ) from error
    # Imported here: the probe needs torch, as every loaded teacher does.
    from logitlake.pipeline.teachers.probe import probed

    return probed(load(settings, files, vocab_size=vocab_size), window=window, name=files.name)
