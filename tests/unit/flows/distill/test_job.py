"""A student's job is resolved once, and everything after that is told, not asked again."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.distill.run import DistillRun, plan_student
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.teachers.files import resolve_teacher
from logitlake.storage.row_sets.row_set import resolve_row_set


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
