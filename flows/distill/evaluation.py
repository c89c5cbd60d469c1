"""Measure models on the held-out documents: against the teacher if it can be loaded, else against the cache."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.flows.terminal.progress import Bar, progress_bar, quiet_transformers
from logitlake.pipeline.evaluation.evaluate import Evaluation, evaluate, held_out_rows
from logitlake.pipeline.model_files.files import TeacherFiles, check_same_teacher, resolve_teacher
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.settings.models import EvaluationSettings, TeacherSettings
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.teachers.registry import load_engine
from logitlake.storage.errors import LakeError, LogitlakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set

log = logging.getLogger(__name__)


def held_out_row_set(lake: Lake, recipe_id: str) -> RowSet | None:
    """The held-out rows of a recipe; None, with a warning in the log, if there are none."""
    try:
        return resolve_row_set(lake, recipe_id=recipe_id, held_out=True)
    except LakeError:
        log.warning(
            "this recipe has no held-out documents, so nothing is evaluated: capture more documents, or make a "
            "new lake with a larger lake.held_out.share"
        )
        return None


def evaluate_models(
    lake: Lake,
    rows: RowSet,
    recipe: Mapping[str, Any],
    models: Mapping[str, Any],
    *,
    settings: EvaluationSettings,
    device: str,
    engine: Engine | None,
) -> Evaluation:
    """Metrics of some models by name, and of the teacher, on `device`. `engine` is the teacher, None without it."""
    quiet_transformers()
    limit, training = settings.max_tokens, not rows.held_out
    tables = held_out_rows(rows, lake_fetch(lake, rows), max_tokens=limit, training=training)
    with progress_bar("evaluate", total=min(rows.n_tokens, limit or rows.n_tokens)) as bar:
        evaluation: Evaluation = evaluate(
            {name: model.to(resolve_device(device)) for name, model in models.items()},
            _counted(tables, bar),
            recipe,
            engine=engine,
            batch_sequences=settings.batch_sequences,
        )
    return evaluation


def _counted(tables: Iterable[pa.Table], bar: Bar) -> Iterator[pa.Table]:
    """The tables; the bar advances after each."""
    for table in tables:
        yield table
        bar.advance(pc.sum(table["n_tokens"]).as_py())


def teacher_engine(
    settings: EvaluationSettings,
    teacher: TeacherSettings | None,
    recipe: Mapping[str, Any],
    files: TeacherFiles | None = None,
) -> Engine | None:
    """The recipe's teacher, loaded. `files` are the teacher's, if they are resolved already.

    None where `evaluation.teacher` is false, or is not set and the teacher can't be loaded. Raises LogitlakeError if
    it is true and the teacher can't be loaded, MismatchError for another teacher than the recipe's.
    """
    if settings.teacher is False:
        return None
    try:
        return _load(teacher, recipe, files)
    except LogitlakeError as error:
        if settings.teacher:
            raise
        log.warning("the teacher could not be loaded (%s): KL is estimated from the cache", error)
        return None


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row of metrics per model, the teacher last."""
    measured = [*evaluation.students.items(), ("teacher", evaluation.teacher)]
    return [{"model": name, **metrics.to_dict()} for name, metrics in measured]


def _load(teacher: TeacherSettings | None, recipe: Mapping[str, Any], files: TeacherFiles | None) -> Engine:
    if teacher is None:
        raise SettingsError("the settings have no section `teacher`")
    files = files or resolve_teacher(teacher)
    check_same_teacher(files, recipe)
    return load_engine(teacher, files, vocab_size=recipe["vocabulary"], window=recipe["window"])
