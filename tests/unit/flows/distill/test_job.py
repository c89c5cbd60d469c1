"""A student's job is resolved once, and everything after that is told, not asked again."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.distill.run import DistillRun, plan_student
from logitlake.flows.settings import location_of
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import Config, StudentSettings
from logitlake.pipeline.students.identity import student_id
from logitlake.pipeline.students.work_directory import checkpoints_directory
from logitlake.storage.errors import SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.candidates import Candidate, note_planned


@contextmanager
def counted(*functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """How often each function is called, under whatever name a module of ours has imported it."""
    calls: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for function in functions:

            def counting(*given: Any, _function: Any = function, **named: Any) -> Any:
                calls[_function.__name__, named.get("held_out", False)] += 1
                return _function(*given, **named)

            for module in [module for name, module in sys.modules.items() if name.startswith("logitlake.")]:
                if getattr(module, function.__name__, None) is function:
                    patch.setattr(module, function.__name__, counting)
        yield calls


@pytest.mark.parametrize("source", ["teacher", "checkpoint"])
def test_a_fresh_training_resolves_the_teacher_and_hashes_the_rows_once(
    filled: Any, tiny_teacher: Path, tmp_path: Path, source: str
) -> None:
    import logitlake.flows.distill.evaluation  # what the run imports late is counted too
    import logitlake.pipeline.training.train_student  # noqa: F401

    shutil.copytree(filled.config.lake.path, tmp_path / "lake")
    sections = {"lake": {"path": tmp_path / "lake"}, "training": {"output": tmp_path / "student"}}
    if source == "checkpoint":
        sections["student"] = {"source": "checkpoint", "model": str(tiny_teacher), "layers": None}
    config: Config = filled.config.model_copy(
        update={name: getattr(filled.config, name).model_copy(update=values) for name, values in sections.items()}
    )
    with counted(resolve_teacher, resolve_row_set) as calls:
        job, report = plan_student(config)
        assert report is None
        with DistillRun(config, job) as run:
            run.train()
            run.evaluate()
            run.commit()
    assert run.report.metrics["held_out"]["exact"], "the teacher was used"
    assert calls == {
        # A student from a checkpoint has two models to resolve: the teacher, and its own parent.
        ("resolve_teacher", False): 1 if source == "teacher" else 2,
        ("resolve_row_set", False): 1,
        ("resolve_row_set", True): 1,
    }


@pytest.mark.parametrize(
    "what", ["registered", "planned", "interrupted", pytest.param("other config", marks=pytest.mark.slow)]
)
def test_a_student_that_an_older_logitlake_named_is_not_trained_again(
    filled: Any, tiny_teacher: Path, tmp_path: Path, what: str
) -> None:
    """Older ids cover the weights of a checkpoint, and not its config."""
    shutil.copytree(filled.config.lake.path, tmp_path / "lake")
    model = Path(shutil.copytree(tiny_teacher, tmp_path / "model"))
    training = filled.config.training.model_copy(update={"output": tmp_path / "student"})
    config: Config = filled.config.model_copy(
        update={
            "lake": filled.config.lake.model_copy(update={"path": tmp_path / "lake"}),
            "student": StudentSettings(source="checkpoint", model=str(model)),
            "training": training,
        }
    )
    job, _ = plan_student(config)
    parent = replace(job.parent, config_id=None)
    older_id = student_id(parent, job.rows, job.student, job.training)
    assert older_id != job.student_id
    if what == "planned":
        with Lake.open(location_of(config), read_only=False) as lake:
            candidate = Candidate(
                student_id=older_id,
                alias="current",
                current=None,
                recipe_id=job.recipe_id,
                row_set_id=job.rows.row_set_id,
                where=None,
                up_to_commit=job.rows.up_to_commit,
            )
            note_planned(lake, "run", candidate)
    elif what == "interrupted":
        checkpoint = checkpoints_directory(tmp_path / "student", older_id) / "checkpoint-3"
        checkpoint.mkdir(parents=True)
        shutil.copy(model / "config.json", checkpoint)
    else:
        with DistillRun(config, replace(job, student_id=older_id, parent=parent)) as run:
            run.train()
            run.commit()
    if what == "other config":
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
        with pytest.raises(SettingsError, match=f"found student {older_id[:12]}"):
            plan_student(config)
        return
    again, report = plan_student(config)
    assert again.student_id == older_id
    assert (report is not None) == (what == "registered")
