"""Ctrl-C while DuckDB works on a query that takes for ever: every command ends at once, with one sentence."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.cli.command_table import entries
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify

# A command whose first query is replaced by an endless one: a real query, which a real signal must stop.
SCRIPT = """
import sys
from pathlib import Path
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import ReadSession

query, reached, ask = sys.argv[1], Path(sys.argv[2]), Lake.sql

def endless(self, *given):
    reached.touch()
    return ask(self, query)

def endless_answer(self, sql, **given):
    reached.touch()
    return answer(self, query, **given)

Lake.sql = endless
answer, ReadSession.ask = ReadSession.ask, endless_answer
sys.argv = ["logitlake", *sys.argv[3:]]
from logitlake.flows.cli.app import main
main()
"""
ROWS = "range(10000000) a, range(10000000) b WHERE hash(a.range * b.range) % 1000000 = 3"
# DuckDB hands over the rows of the first one by one, and executes the second as a whole.
STREAMED, WHOLE = f"SELECT a.range FROM {ROWS}", f"SELECT count(*) FROM {ROWS}"
SECONDS_TO_START, SECONDS_TO_END = 120, 60

COMMANDS = {
    "plan": (),
    "generate": ("--set", "generate={prompts: {name: q, kind: text, path: .}, max_new_tokens: 4}"),
    "capture": (),
    "train": (),
    "evaluate": ("nobody",),
    "redistill": (),
    "promote": ("nobody",),
    "rollback": (),
    "show": ("lake",),
    "report": ("--output", "page.html"),
    "sql": ("SELECT 1",),
    "export": ("dataset",),
    "verify": (),
    "maintain": (),
    "forget": ("--where", "n_tokens > 0"),
    "retire": ("nothing",),
    "copy": ("copy",),
    "rebuild": (),
    "repair": (),
}
# What has tests of its own: serve by Prefect's handler (tests/integration/nights), demo by the commands that it calls.
# `init` and `check` make no query, and `import` needs files of another program (tests/unit/flows/imports).
ELSEWHERE = {"serve", "demo", "check", "import", "init"}
QUICK = {"verify", "forget"}


def test_every_command_is_interrupted_by_a_test() -> None:
    assert COMMANDS.keys() | ELSEWHERE == {entry.name for entry in entries()}


@pytest.mark.parametrize("query", [STREAMED, WHOLE], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COMMANDS]
)
def test_ctrl_c_during_a_query_ends_the_command_with_one_sentence(
    filled: Any, tmp_path: Path, command: str, query: str
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(filled.config.lake.path, lake)
    if command == "rebuild":
        for file in lake.glob("catalog.sqlite*"):
            file.unlink()

    call = [sys.executable, "-c", SCRIPT, query, tmp_path / "reached", command, *COMMANDS[command]]
    call += ["--config", filled.config_file, "--lake", lake]
    with subprocess.Popen(
        [str(part) for part in call],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PREFECT_LOGGING_LEVEL": "CRITICAL"},
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + SECONDS_TO_START
        while not (tmp_path / "reached").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        time.sleep(0.3)  # from the mark to the query itself
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=SECONDS_TO_END)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert err.count("interrupted: committed work is kept") == 1
    assert not (tmp_path / "page.html").exists() and not (tmp_path / "dataset").exists()
    if command != "rebuild":
        with Lake.open(LakeLocation.resolve(lake)) as opened:
            assert not any(check.problem for check in verify(opened))
