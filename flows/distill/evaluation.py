"""Measuring models on the held-out documents: against the teacher where it is at hand, else against the cache."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.flows.terminal.output import say
from logitlake.flows.terminal.progress import Bar, progress_bar, quiet_transformers
from logitlake.pipeline.evaluation.evaluate import Evaluation, evaluate, held_out_rows
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.teachers.engines.transformers_engine import load_teacher
from logitlake.pipeline.teachers.files import resolve_teacher
from logitlake.storage.errors import LakeError, LogitlakeError, MismatchError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set


def held_out_row_set(lake: Lake, recipe_id: str) -> RowSet | None:
    """The held-out rows of a recipe; None if there are none, which is said."""
    try:
        return resolve_row_set(lake, recipe_id=recipe_id, held_out=True)
    except LakeError:
        say("no held-out documents under this recipe: nothing to evaluate on (lake.held_out.share, or a larger corpus)")
        return None


def evaluate_models(
    config: Config, lake: Lake, rows: RowSet, recipe: Mapping[str, Any], models: Mapping[str, Any]
) -> Evaluation:
    """Metrics of some models by name, and of the teacher, on the device that students are trained on.

    Raises SettingsError if `evaluation.teacher` can't be had.
    """
    quiet_transformers()
    device = resolve_device(config.training.device)
    limit, training = config.evaluation.max_tokens, not rows.held_out
    tables = held_out_rows(rows, lake_fetch(lake, rows), max_tokens=limit, training=training)
    engine = teacher_engine(config, recipe)
    n_tokens = min(rows.n_tokens, config.evaluation.max_tokens or rows.n_tokens)
    with progress_bar("evaluate", total=n_tokens) as bar:
        found: Evaluation = evaluate(
            {name: model.to(device) for name, model in models.items()},
            _counted(tables, bar),
            recipe,
            engine=engine,
            batch_sequences=config.evaluation.batch_sequences,
        )
    return found


def _counted(tables: Iterable[pa.Table], bar: Bar) -> Iterator[pa.Table]:
    """The tables, each counted on the bar once the next one is asked for."""
    for table in tables:
        yield table
        bar.advance(pc.sum(table["n_tokens"]).as_py())


def teacher_engine(config: Config, recipe: Mapping[str, Any]) -> Engine | None:
    """The recipe's teacher, loaded; None where the settings do without it, or leave it open and it is not there."""
    if config.evaluation.teacher is False:
        return None
    try:
        return _load(config, recipe)
    except LogitlakeError as error:
        if config.evaluation.teacher:
            raise
        say(f"the teacher is not at hand ({error}): its divergence is estimated from the cache")
        return None


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row per model, the teacher last, in the words of the metrics."""
    measured = [*evaluation.students.items(), ("teacher", evaluation.teacher)]
    return [{"model": name, **metrics.to_dict()} for name, metrics in measured]


def _load(config: Config, recipe: Mapping[str, Any]) -> Engine:
    if config.teacher is None:
        raise SettingsError("no section `teacher` in the settings")
    files = resolve_teacher(config.teacher)
    known = (recipe["teacher"]["weights"], recipe["teacher"]["adapter"])
    if (files.teacher_hash, files.adapter_hash) != known:
        raise MismatchError(
            f"the teacher in the settings has weights {files.teacher_hash} and adapter {files.adapter_hash}, the "
            f"recipe was made with {known[0]} and {known[1]}"
        )
    return load_teacher(config.teacher, files, vocab_size=recipe["vocabulary"])
