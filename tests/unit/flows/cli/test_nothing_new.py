"""With nothing new the command line starts no Prefect, and notes and says what such a run always did."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.sql.session import query

# Prints at its end whether the command imported Prefect or torch, and the servers that it started.
SCRIPT = """
import json, os, subprocess, sys
started = []
class Recorded(subprocess.Popen):
    def __init__(self, *given, **options):
        started.append(str(given))
        super().__init__(*given, **options)
subprocess.Popen = Recorded
sys.argv = ["logitlake", *sys.argv[1:]]
from logitlake.flows.cli.app import main
try:
    main()
except SystemExit as done:
    code = done.code or 0
print(json.dumps({"code": code, "prefect": "prefect" in sys.modules, "torch": "torch" in sys.modules,
    "server": [call for call in started if "prefect" in call or "uvicorn" in call]}))
"""
QUIET = {"code": 0, "prefect": False, "torch": False, "server": []}


def command(*arguments: object) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the command printed as JSON, what it started, and its messages."""
    call = [sys.executable, "-c", SCRIPT, *map(str, arguments), "--format", "json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    *printed, started = done.stdout.splitlines()
    return json.loads("\n".join(printed)), json.loads(started), done.stderr


def runs(config: Config) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = query(
        location_of(config), "SELECT kind, status, n_documents FROM runs ORDER BY started_at, kind"
    ).to_pylist()
    return rows


def test_a_capture_with_nothing_new_starts_no_prefect(captured: Any, config: Config, config_file: Path) -> None:
    printed, started, said = command("capture", "--config", config_file)
    assert started == QUIET
    assert (printed["n_documents"], printed["documents_seen"], printed["documents_known"]) == (0, 31, 31)
    assert "nothing to do: the lake holds every usable document" in said
    assert "1 rejected" in said
    assert [run["status"] for run in runs(config)] == ["finished", "finished"]


def test_documents_that_are_seen_at_another_source_need_no_prefect(
    captured: Any, config: Config, config_file: Path, corpus_file: Path, tmp_path: Path
) -> None:
    shutil.copy(corpus_file, tmp_path / "moved.jsonl")
    overrides = ["--set", f"corpora.test.path={tmp_path / 'moved.jsonl'}"]
    _, started, _ = command("capture", "--config", config_file, *overrides)
    assert started == QUIET
    sources = query(location_of(config), "SELECT count(*) AS n FROM sources WHERE source = 'moved.jsonl'").to_pylist()
    assert sources == [{"n": 31}]


def test_a_night_with_nothing_new_starts_no_prefect(
    captured: Any, config: Config, raw_config: dict[str, Any], tmp_path: Path
) -> None:
    raw_config["redistill"] = {"min_new_documents": 1000}
    path = tmp_path / "night.yaml"
    path.write_bytes(orjson.dumps(raw_config))
    printed, started, said = command("redistill", "--config", path)
    assert started == QUIET
    assert printed["outcome"] == "waiting for more"
    assert "waiting for more: " in said
    assert sorted((run["kind"], run["status"]) for run in runs(config)) == [
        ("capture", "finished"),
        ("capture", "finished"),
        ("redistill", "finished"),
    ]


def test_a_run_that_is_continued_by_another_caller_ends_once(config: Config) -> None:
    with CaptureRun(config) as run:
        assert run.commit_notes()
        with run:
            for number in run.units():
                run.commit(run.compute(number))
        assert run.report.documents_seen == 31
    assert run.report.n_documents == 30
    assert [row["status"] for row in runs(config)] == ["finished"]
    events = query(location_of(config), "SELECT count(*) AS n FROM store.run_events").to_pylist()
    assert events == [{"n": 2}]
