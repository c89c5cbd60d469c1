"""Whatever a person gives a command: one message and an exit code, never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.runtime.termination import TerminatedError
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.registry import load_engine
from logitlake.storage.errors import SettingsError

NOT_UTF8 = os.fsdecode(b"caf\xe9")
# Lists of ten aliases of lists of ten aliases: 10^9 values once they are written out.
LAUGHS = b"x0: &a0 1\n" + b"".join(
    b"x%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
)
INF = ["capture.max_hours", "redistill.tolerance", "lake.lock_timeout_seconds", "training.learning_rate"]


def refused(result: Any, words: str, code: int = 2) -> None:
    """Check the exit code and the message of a result."""
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"lake: {path: 2024-02-30}", "a value that its type can't hold"),
        (b"lake: {path: 2024-02-03T25:00:00}", "a value that its type can't hold"),
        (b"capture: {max_tokens: !!int x}", "a value that its type can't hold"),
        (b"capture: {max_tokens: !!bool x}", "a value that its type can't hold"),
        (b"capture: {max_tokens: !!timestamp x}", "a value that its type can't hold"),
        (b"capture: {max_tokens: " + b"9" * 5000 + b"}", "a value that its type can't hold"),
        (b"lake: " + b"[" * 5000, "nested more than"),
        (b"lake: " + b"{a: " * 5000 + b"}" * 5000, "nested more than"),
        (b"lake: {path: a}\nlake: {path: b}", "'lake' stands twice in one section, in lines 1 and 2"),
        (b"lake:\n  path: a\n  'path': b", "'path' stands twice in one section, in lines 2 and 3"),
        (b"corpora: [{name: a, name: b}]", "'name' stands twice"),
        (b"lake: &a [*a]", "contains itself"),
        (LAUGHS, "aliases counted each time"),
        (b"\xff\xfe", "not UTF-8"),
        (b"lake: {path: \x00}", "not valid YAML"),
        (b"#" * 2**20, "more than"),
        (b"- a", "expected a mapping"),
        (b"1: 2", "expected a text as the name"),
        (b"lake: {1: 2}", "lake"),
        (b"corpora: {a: b}", "corpora"),
    ],
)
def test_a_settings_file_that_can_not_be_used_is_refused_in_words(
    cli: Any, tmp_path: Path, text: bytes, words: str
) -> None:
    (tmp_path / "logitlake.yaml").write_bytes(text)
    refused(cli("show", "config"), words)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("setting", INF)
def test_a_setting_is_a_finite_number(cli: Any, setting: str, value: str) -> None:
    refused(cli("show", "config", "--set", f"{setting}={value}"), "finite number")


@pytest.mark.parametrize("setting", ["lake.path", "lake.catalog", "lake.data", "training.output", "teacher.model"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('""', "empty text"),
        ('" "', "empty text"),
        (r'"a\0b"', "NUL"),
        (r'"\udce9"', "UTF-8"),
        ("~nobody-here/x", "no user"),
    ],
)
def test_a_path_in_the_settings_is_one_that_can_be(cli: Any, setting: str, value: str, words: str) -> None:
    refused(cli("show", "config", "--set", f"{setting}={value}"), words)


@pytest.mark.parametrize(
    "call",
    [
        ("plan", "--lake", ""),
        ("plan", "--config", ""),
        ("report", "--output", ""),
        ("sql", "--output", "", "SELECT 1"),
        ("sql", "--file", ""),
        ("export", ""),
        ("import", "", "--from", "axolotl", "--teacher", "t", "--tokenizer", "t"),
        ("train", "--output", ""),
        ("train", "--query", ""),
        ("demo", "--directory", ""),
    ],
)
def test_an_option_of_a_path_takes_no_empty_text(cli: Any, call: tuple[str, ...]) -> None:
    refused(cli(*call), "empty text")


@pytest.mark.parametrize(
    "call",
    [("sql", "--timeout", "inf", "SELECT 1"), ("plan", "--tokens-per-second", "nan"), ("plan", "--max-hours", "inf")],
)
def test_an_option_takes_no_infinite_number(cli: Any, call: tuple[str, ...]) -> None:
    assert cli(*call).exit_code == 2


def test_a_query_that_is_not_utf8_is_refused_wherever_it_comes_from(
    cli: Any, filled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.sql").write_bytes(b"SELECT 'caf\xe9'")
    settings = ("--config", filled.config_file)
    refused(cli("sql", "--file", tmp_path / "q.sql", *settings), "q.sql")
    refused(cli("sql", f"SELECT '{NOT_UTF8}'", *settings), "UTF-8")
    refused(cli("train", "--where", f"corpus = '{NOT_UTF8}'", *settings), "UTF-8")
    done = subprocess.run(
        [sys.executable, "-c", "from logitlake.flows.cli.app import main; main()", "sql", *map(str, settings)],
        input=b"SELECT 'caf\xe9'",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"standard input" in done.stderr, b"Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize(
    "query", ["SELECT '\0'", "SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT 1; SELECT 2", ";", "\ud7ff"]
)
def test_a_query_of_any_text_is_answered_or_refused(cli: Any, filled: Any, query: str) -> None:
    result = cli("sql", query, "--config", filled.config_file)
    assert result.exit_code in (0, 2), result.stderr
    assert "unexpected error" not in result.stderr


def test_a_teacher_whose_config_contradicts_itself_is_refused(config_file: Path, tmp_path: Path) -> None:
    raw = json.loads(config_file.read_text())
    broken = tmp_path / "broken"
    shutil.copytree(raw["teacher"]["model"], broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    settings = TeacherSettings(model=str(broken), device="cpu", dtype="float32")
    with pytest.raises(SettingsError, match="can't load it"):
        load_engine(settings, resolve_teacher(settings), vocab_size=10, window=8)


def test_an_error_that_nobody_foresaw_is_one_message_and_a_traceback_only_on_demand(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr("logitlake.flows.cli.options.settings", broken)
    refused(cli("show", "runs"), "unexpected error: ZeroDivisionError: nobody foresaw this", code=1)
    assert "Traceback" in cli("show", "runs", "--debug").stderr


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (TerminatedError, 143)])
def test_ctrl_c_that_arrives_as_another_error_is_an_interruption(
    cli: Any, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], code: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        # What DuckDB makes of a signal during a query.
        raise RuntimeError("Query interrupted") from stop()

    monkeypatch.setattr("logitlake.flows.cli.commands.rebuild.make_again", interrupted)
    refused(cli("rebuild"), "interrupted: committed work is kept", code)
