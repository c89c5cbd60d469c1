"""Computes a work unit from values that can be pickled, so that any process can do it."""

import gc
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.capture.recipe import Recipe
from logitlake.pipeline.capture.top_k_unit import capture_top_k_unit
from logitlake.pipeline.capture.unit import CapturedUnit, capture_unit
from logitlake.pipeline.model_files.files import TeacherSource
from logitlake.pipeline.model_files.recording import RecordedTeacher
from logitlake.pipeline.settings.models import CaptureSettings
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.teachers.recorder import Recorder
from logitlake.pipeline.teachers.registry import load_any_engine
from logitlake.pipeline.teachers.top_k_engine import TopKEngine

log = logging.getLogger(__name__)


def compute_unit(
    source: TeacherSource,
    unit: WorkUnit,
    *,
    recipe: Recipe,
    settings: CaptureSettings,
    further: Sequence[Recipe] = (),
    on_progress: Callable[[int], None] | None = None,
) -> CapturedUnit:
    """Run the teacher over a unit. The first call of a process loads the teacher. See `capture_unit` for errors."""
    engine = loaded_teacher(source)
    if isinstance(engine, TopKEngine):
        return capture_top_k_unit(unit, engine=engine, recipe=recipe, settings=settings, on_progress=on_progress)
    if settings.record is not None:
        engine = Recorder(engine, settings.record.expanduser(), _recorded(source, recipe))
    return capture_unit(unit, engine=engine, recipe=recipe, further=further, settings=settings, on_progress=on_progress)


def _recorded(source: TeacherSource, recipe: Recipe) -> RecordedTeacher:
    origin = source.files.origin
    return RecordedTeacher(
        teacher=recipe.to_dict()["teacher"],
        origin={"model": source.settings.model} if origin is None else origin.to_dict(),
        vocabulary=recipe.vocabulary,
        n_parameters=source.files.n_parameters,
    )


@lru_cache(maxsize=1)
def loaded_teacher(source: TeacherSource) -> Engine | TopKEngine:
    """The teacher of this process; kept until another one is loaded, or until `unload_teacher`."""
    # Nothing moves meanwhile, for minutes if it is large.
    log.info("loading the teacher %s", source.files.name)
    return load_any_engine(source.settings, source.files, vocab_size=source.vocabulary, window=source.window)


def unload_teacher() -> None:
    """Release the teacher that this process has loaded."""
    loaded_teacher.cache_clear()
    # Parts of a model refer to each other: an accelerator's memory is free once they are collected.
    gc.collect()
