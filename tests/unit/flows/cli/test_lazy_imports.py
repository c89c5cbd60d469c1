"""What a short command does without."""

import os
import subprocess
import sys
from typing import Any

import pytest

from logitlake.flows.cli.command_table import entries


@pytest.mark.parametrize(
    "command", [["show"], ["show", "runs"], ["show", "document", "documents.jsonl:2"], ["sql", "FROM runs"], ["verify"]]
)
def test_a_light_command_imports_no_pandas_and_answers(filled: Any, command: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["logitlake", *{command!r}]
from logitlake.flows.cli.app import main
try:
    main()
except SystemExit as done:
    print("pandas" in sys.modules, done.code or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LOGITLAKE_CONFIG": str(filled.config_file)},
    )
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_commands_that_read_corpora_or_run_flows_may_import_what_they_like() -> None:
    light = {entry.name for entry in entries() if entry.light}
    assert not light & {"plan", "capture", "train", "evaluate", "redistill", "maintain", "serve", "demo"}
