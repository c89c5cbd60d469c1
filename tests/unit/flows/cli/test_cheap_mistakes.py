"""What costs nothing to find out is found out before Prefect is started, and durations are read at a glance."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.runtime.environment import without_traceback
from logitlake.storage.errors import SettingsError
from tests.tiny_models import make_tiny_llama, write_tiny_tokenizer

SCRIPT = """
import sys
from typer.testing import CliRunner
from logitlake.flows.cli.app import app
done = CliRunner().invoke(app, ["capture", "--config", sys.argv[1], "--set", sys.argv[2]])
assert "prefect" not in sys.modules, "Prefect was started"
print(done.stderr)
sys.exit(done.exit_code)
"""


@pytest.mark.parametrize(
    ("command", "wrong", "code"),
    [
        ("capture", "corpora.test.path=gone.jsonl", 3),
        ("capture", "teacher.model=./gone", 2),
        ("redistill", "teacher.model=./gone", 2),
        ("redistill", "training.query=gone", 2),
        ("maintain", "lake.path=gone", 5),
    ],
)
def test_what_is_not_there_is_told_before_prefect_is_imported(
    config_file: Path, command: str, wrong: str, code: int
) -> None:
    call = [sys.executable, "-c", SCRIPT.replace('"capture"', repr(command)), str(config_file), wrong]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    assert ("gone" if "query" not in wrong else "training.query") in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.query=SELECT doc_id FROM read_text('/etc/passwd')", "read_text"),
        ("training.query=SELECT corpus FROM sequences", "columns doc_id"),
        ("training.query=SELECT doc_id FROM documents WHERE held_out", "no rows to train on"),
        ("training.where=nonsense > 1", "nonsense"),
        ("student.layers=99", "student.layers: expected 1 to"),
        ("training.output=.", "training.output"),
        ("training.output=logitlake.yaml", "training.output"),
        ("training.output=logitlake.yaml/student", "is not a directory"),
        ("training.output=/dev/null/student", "is not a directory"),
    ],
)
def test_a_training_that_can_not_be_is_refused_before_prefect_and_torch_are_imported(
    filled: Any, setting: str, words: str
) -> None:
    script = SCRIPT.replace('"capture"', '"train"')
    script = script.replace('"prefect" not in sys.modules', 'not {"prefect", "torch"} & set(sys.modules)')
    name, _, value = setting.partition("=")
    call = [sys.executable, "-c", script, str(filled.config_file), f"{name}={json.dumps(value)}"]
    directory = filled.config_file.parent
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode in (2, 5), done.stderr + done.stdout
    assert words in done.stdout


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"vocab_size": 20}, 4, "expected an output layer of at least"),
        pytest.param({"max_position_embeddings": 16}, 2, "was made for 16 positions", marks=pytest.mark.slow),
        pytest.param({}, 2, "its modules are down_proj, embed_tokens, gate_proj", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_recipe_is_refused_before_prefect_is_imported(
    filled: Any, tmp_path: Path, changes: dict[str, int], code: int, words: str
) -> None:
    make_tiny_llama(**changes).save_pretrained(tmp_path / "model")
    write_tiny_tokenizer(tmp_path / "model")
    script = SCRIPT.replace('"capture"', '"train"')
    student: dict[str, Any] = {"source": "checkpoint", "model": str(tmp_path / "model"), "layers": None}
    student["lora"] = {"target_modules": ["query"]}
    call = [sys.executable, "-c", script, str(filled.config_file), f"student={json.dumps(student)}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr + done.stdout
    assert words in done.stdout


def test_an_error_of_ours_is_logged_without_a_traceback_and_any_other_with_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.Logger("of a flow")
    logger.addHandler(caplog.handler)
    logger.addFilter(without_traceback)
    for error in (SettingsError("no such column"), ZeroDivisionError("a bug")):
        try:
            raise error
        except type(error) as caught:
            logger.exception("failed: %s", caught)
    assert [record.exc_info is None for record in caplog.records] == [True, False]
