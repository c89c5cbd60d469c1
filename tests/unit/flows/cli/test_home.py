"""Without a home directory, or with one that can't be written, every command works or says what it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

PROGRAM = [sys.executable, "-c", "from logitlake.flows.cli.app import main; main()"]
# Prefixes of a command. `nobody`: a user that passwd does not know, as in many containers. `read_only`: on a file
# system that can't be written.
MOUNTED = 'mount -t tmpfs -o ro tmpfs "$HOME" && exec "$@"'
HOMES: dict[str, list[str]] = {
    "no_directory": ["env", "HOME=/dev/null/x"],
    "nobody": ["env", "-u", "HOME", "unshare", "--user", "--map-user=54321"],
    "read_only": ["env", "HOME={home}", "unshare", "--map-root-user", "--mount", "bash", "-c", MOUNTED, "mounted"],
}
COMMANDS = {
    "plan": ["plan"],
    "check": ["check", "--documents", "1"],
    "capture": ["capture", "--set", "corpora.test.path={more}"],
    "train": ["train", "-o", "{directory}/student"],
    "evaluate": ["evaluate", "{teacher}"],
    "redistill": ["redistill"],
    "promote": ["promote", "0" * 32],
    "sql": ["sql", "SELECT count(*) FROM documents"],
    "show": ["show", "students"],
    "report": ["report"],
    "export": ["export", "{directory}/dataset"],
    "verify": ["verify"],
    "repair": ["repair"],
    "maintain": ["maintain"],
    "forget": ["forget", "--where", "n_tokens > 0"],
    "rebuild": ["rebuild"],
}
# Prefect's home, hashes of files, the history of `sql`.
WRITES_AT_HOME = {"plan", "check", "capture", "train", "sql", "report"}
QUICK = {("nobody", "plan"), ("nobody", "sql"), ("read_only", "sql")}
CASES = [
    pytest.param(home, command, marks=[] if (home, command) in QUICK else [pytest.mark.slow])
    for home in HOMES
    for command in COMMANDS
    # A user whom the system does not know is the hardest case; the others differ where files are written.
    if home == "nobody" or command in WRITES_AT_HOME
]


def call(lake: Any, home: str, arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with a home of that kind. Nothing else names a directory for the user's files."""
    prefix = [part.format(home=directory) for part in HOMES[home]]
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LOGITLAKE_", "HF_HOME"))
    }
    return subprocess.run(
        [*prefix, *PROGRAM, *arguments, "--config", str(lake)], env=given, capture_output=True, text=True, check=False
    )


@pytest.fixture
def settings(filled: Any, tmp_path: Path) -> Path:
    """The settings of a copy of the filled lake."""
    raw = orjson.loads(filled.config_file.read_bytes())
    shutil.copytree(raw["lake"]["path"], tmp_path / "lake")
    raw["lake"]["path"] = str(tmp_path / "lake")
    raw["training"]["output"] = str(tmp_path / "student")
    path = tmp_path / "logitlake.yaml"
    path.write_bytes(orjson.dumps(raw))
    return path


@pytest.mark.parametrize(("home", "command"), CASES)
def test_a_command_works_whatever_the_home_directory_is(
    settings: Path, tmp_path: Path, home: str, command: str, tiny_teacher: Path
) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    (tmp_path / "more.jsonl").write_text('{"text": "the cat sat on a log and on a mat"}\n')
    if command == "rebuild":
        for file in (tmp_path / "lake").glob("catalog.sqlite*"):
            file.unlink()
    names = {"directory": tmp_path, "more": tmp_path / "more.jsonl", "teacher": tiny_teacher}
    done = call(settings, home, [part.format(**names) for part in COMMANDS[command]], directory)
    # The lake has no student that could be promoted.
    assert done.returncode == (5 if command == "promote" else 0), done.stderr
    assert "Traceback" not in done.stderr and "unexpected error" not in done.stderr


def test_a_path_in_a_home_that_is_not_there_is_refused(settings: Path, tmp_path: Path) -> None:
    done = call(settings, "nobody", ["show", "--lake", "~/lake"], tmp_path)
    assert done.returncode == 2, done.stderr
    assert "this user has no home directory: set HOME to one, or write the path out" in done.stderr
