"""`logitlake generate` as people run it: in a process of its own, killed, planned, and up to a trained student."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.flows.settings import settings
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from logitlake.storage.lake.lake import Lake
from tests.tiny_lake import capture_all, text_of
from tests.unit.flows.generate.test_run import generate_all

N_PROMPTS = 20
SAMPLES = 2


@pytest.fixture
def config_file(raw_config: dict[str, Any], tmp_path: Path) -> Path:
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b"\n".join(orjson.dumps({"text": text_of(number)}) for number in range(N_PROMPTS)))
    raw = raw_config | {
        "generate": {
            "prompts": {"name": "questions", "kind": "jsonl", "path": str(questions)},
            "samples": SAMPLES,
            "max_new_tokens": 8,
            "unit_prompts": 6,
            "verifier": {"name": "regex", "pattern": "o"},
        },
        "corpora": [{"name": "traces", "kind": "traces"}],
    }
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    return path


def run(config_file: Path, *arguments: object, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "logitlake", *map(str, arguments), "--config", str(config_file)],
        cwd=config_file.parent,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), ENVIRONMENT_VARIABLE: kill_at},
        capture_output=True,
        text=True,
        check=False,
    )


def samples(lake_directory: Path) -> list[dict[str, Any]]:
    with Lake.open(LakeLocation.resolve(lake_directory)) as lake:
        found: list[dict[str, Any]] = lake.sql(
            "SELECT prompt_id, sample_number, doc_id, is_kept FROM traces ORDER BY ALL"
        ).to_pylist()
        n_rows = lake.row("SELECT count(*) AS n FROM store.traces")["n"]
    assert n_rows == len(found), "no sample is stored twice"
    return found


def test_the_plan_counts_what_a_run_then_writes(cli: Any, config_file: Path) -> None:
    result = cli("generate", "--plan", "--config", config_file, "--format", "json")
    plan = json.loads(result.stdout)
    assert (plan["prompts"], plan["samples_new"], plan["units"]) == (N_PROMPTS, N_PROMPTS * SAMPLES, 4)
    assert plan["tokens_at_most"] == plan["prompt_tokens"] + 8 * N_PROMPTS * SAMPLES
    assert "no lake yet" in result.stderr


def test_without_prompts_the_command_ends_with_code_2(cli: Any, config_file: Path) -> None:
    result = cli("generate", "--config", config_file, "--set", "generate.prompts=null")
    assert (result.exit_code, "generate.prompts" in result.stderr) == (2, True)


_WITHOUT_PREFECT = """
import sys
from pathlib import Path
from logitlake.flows.settings import settings
from tests.unit.flows.generate.test_run import generate_all
generate_all(settings(Path(sys.argv[1]), [], {"lake.path": sys.argv[2]}))
"""


def write_without_prefect(config_file: Path, lake: Path, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    """What the flow does, in a process that takes seconds less."""
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_PREFECT, str(config_file), str(lake)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), ENVIRONMENT_VARIABLE: kill_at},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["unit-computed:2", "transaction-open:3", "rows-registered:2", "committed:3"])
def test_a_killed_generate_goes_on_and_writes_every_sample_once(config_file: Path, tmp_path: Path, place: str) -> None:
    generate_all(settings(config_file, [], {"lake.path": tmp_path / "whole"}))
    expected = samples(tmp_path / "whole")
    assert len(expected) == N_PROMPTS * SAMPLES and {row["is_kept"] for row in expected} == {True, False}
    lake = tmp_path / "killed"
    killed = write_without_prefect(config_file, lake, place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = generate_all(settings(config_file, [], {"lake.path": lake}))
    assert report.n_traces > 0 and report.n_traces + report.samples_stored == N_PROMPTS * SAMPLES
    assert samples(lake) == expected


@pytest.mark.slow
def test_a_command_that_was_killed_is_run_again(config_file: Path, tmp_path: Path) -> None:
    assert run(config_file, "generate", kill_at="committed:3").returncode == -signal.SIGKILL
    resumed = run(config_file, "generate", "--format", "json")
    assert resumed.returncode == 0, resumed.stderr
    assert 0 < json.loads(resumed.stdout)["n_traces"] < N_PROMPTS * SAMPLES
    assert len(samples(tmp_path / "lake")) == N_PROMPTS * SAMPLES


@pytest.mark.slow
def test_from_prompts_to_a_student_by_the_commands_of_the_page(config_file: Path, tmp_path: Path) -> None:
    reports = {}
    for command in ("generate", "capture", "train"):
        done = run(config_file, command, "--format", "json")
        assert done.returncode == 0, (command, done.stderr)
        reports[command] = json.loads(done.stdout)
    checked = run(config_file, "check")
    assert checked.returncode == 0, checked.stderr
    kept = {row["doc_id"] for row in samples(tmp_path / "lake") if row["is_kept"]}
    assert reports["capture"]["n_documents"] == len(kept) == reports["generate"]["n_kept"]
    assert 0 < reports["train"]["n_targets"] < reports["capture"]["n_targets"], "held-out prompts are left out"
    assert (tmp_path / "student" / "model.safetensors").exists()
    by_student = run(config_file, "generate", "--writer", tmp_path / "student", "--format", "json")
    assert by_student.returncode == 0, by_student.stderr
    assert json.loads(by_student.stdout)["n_traces"] == N_PROMPTS * SAMPLES
    again = run(config_file, "generate", "--format", "json")
    assert json.loads(again.stdout)["n_units"] == 0


def test_forget_names_the_traces_of_a_prompt_before_and_removes_them(cli: Any, config_file: Path) -> None:
    config = settings(config_file, ["generate.max_prompts=2"])
    generate_all(config)
    prompt = samples(config.lake.path)[0]["prompt_id"]
    call = ("forget", prompt[:10], "--config", config_file, "--format", "json")
    would = json.loads(cli(*call, "--dry-run").stdout)
    done = json.loads(cli(*call).stdout)
    assert would["doc_ids"] == done["doc_ids"] and prompt in done["doc_ids"] and len(done["doc_ids"]) == 1 + SAMPLES
    assert prompt not in {row["prompt_id"] for row in samples(config.lake.path)}


@pytest.mark.slow
def test_a_trace_is_shown_by_the_beginning_of_its_id(cli: Any, config_file: Path) -> None:
    config = settings(config_file, ["generate.max_prompts=1"])
    generate_all(config)
    capture_all(config)
    trace = next(row["doc_id"] for row in samples(config.lake.path) if row["is_kept"])
    shown = cli("show", "document", trace[:44], "--config", config_file)
    assert shown.exit_code == 0 and trace in shown.stdout
