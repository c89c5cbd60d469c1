"""`logitlake sql`: forms of output, where the query comes from, and the prompt."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from logitlake.flows.cli.sql_prompt import completer, converse
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format
from logitlake.storage.sql.session import ReadSession


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_HISTORY", str(tmp_path / "state" / "history"))


def test_a_result_goes_to_a_parquet_file(cli: Any, filled: Any, tmp_path: Path) -> None:
    result = cli("sql", "FROM documents", "--config", filled.config_file, "--output", tmp_path / "d.parquet")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "30 rows" in result.stderr
    assert pq.read_table(tmp_path / "d.parquet").num_rows == 30


def test_a_query_that_is_stopped_by_its_time_ends_with_2(cli: Any, filled: Any) -> None:
    slow = "SELECT count(*) FROM range(100000000000000)"
    result = cli("sql", slow, "--config", filled.config_file, "--timeout", "0.2", "--memory-limit", "500MB")
    assert result.exit_code == 2
    assert "--timeout" in result.stderr


def test_as_of_shows_an_earlier_lake(cli: Any, filled: Any) -> None:
    count = ("sql", "SELECT count(*) AS n FROM documents", "--config", filled.config_file, "--format", "csv")
    assert cli(*count).stdout == "n\n30\n"
    assert cli(*count, "--as-of", "0").stdout == "n\n0\n"
    assert cli(*count, "--as-of", "1000000").exit_code == 2


def test_the_printed_lines_let_another_client_see_the_lake(cli: Any, filled: Any) -> None:
    lines = cli("sql", "--init", "--config", filled.config_file).stdout
    with duckdb.connect() as connection:
        connection.execute(lines)
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (30,)
        with pytest.raises(duckdb.Error, match="read-only"):
            connection.execute("DELETE FROM store.tombstones")


def converse_with(session: ReadSession, typed: str) -> None:
    with create_pipe_input() as keys:
        keys.send_text(typed)
        converse(session, Format.CSV, input=keys, output=DummyOutput())


def test_a_conversation_answers_goes_on_after_errors_and_ends(filled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with ReadSession(location_of(filled.config)) as session:
        converse_with(
            session,
            "SELECT 41 + 1 AS answer;\rSELECT\rcount(*) AS n FROM documents;\rSELEKT;\rDROP VIEW sequences;\r"
            "\\d\r\\d documents\r\x03SELECT 7 AS seven;\rquit\r",
        )
    shown = capsys.readouterr()
    assert "answer\n42\n" in shown.out
    assert "n\n30\n" in shown.out
    assert "seven\n7\n" in shown.out
    assert "positions," in shown.out
    assert "held_out," in shown.out
    assert "not valid SQL" in shown.err
    assert "only reads" in shown.err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        *((command, "positions,") for command in ("\\d", ".tables", "show tables", "SHOW TABLES;")),
        *((command, "held_out,") for command in ("\\d documents", ".schema documents", "DESCRIBE Documents;")),
        *((command, "lists the views") for command in ("help", "HELP;", ".help", "\\?", "?")),
        ("\\d nonsense", "there is no such view"),
    ],
)
def test_the_commands_of_other_clients_are_understood(
    filled: Any, capsys: pytest.CaptureFixture[str], typed: str, expected: str
) -> None:
    with ReadSession(location_of(filled.config)) as session:
        converse_with(session, f"{typed}\r\x04")
    shown = capsys.readouterr()
    # The greeting is not an answer.
    assert expected in shown.out + shown.err.replace("lists the views", "", 1)


def test_headings_are_the_names_of_the_columns_and_text_stays_on_its_line(cli: Any, filled: Any) -> None:
    question = "SELECT 'a\nb\tc' AS some_text, 0.1::FLOAT AS a_number, 1.0 / 3 AS b_number"
    table = cli("sql", question, "--config", filled.config_file).stdout
    assert "some_text" in table and "a\\nb\\tc" in table and "0.3333 " in table
    rows = cli("sql", question, "--config", filled.config_file, "--format", "csv").stdout
    assert rows == 'some_text,a_number,b_number\n"a\nb\tc",0.1,0.3333333333333333\n'


def test_a_conversation_ends_with_its_input_and_is_remembered(filled: Any, tmp_path: Path) -> None:
    with ReadSession(location_of(filled.config)) as session:
        converse_with(session, "SELECT 1;\r\x04")
    assert "SELECT 1;" in (tmp_path / "state" / "history").read_text()


def test_views_and_columns_are_completed(filled: Any) -> None:
    with ReadSession(location_of(filled.config)) as session:
        words = completer(session)
    for typed, expected in (("FROM vocabu", "vocabulary"), ("SELECT mean_en", "mean_entropy"), ("sel", "SELECT")):
        offered = [found.text for found in words.get_completions(Document(typed), CompleteEvent())]
        assert offered == [expected]


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_stops_the_query_and_not_the_session(filled: Any) -> None:
    """A real terminal and a real signal: a separate program on a pseudo-terminal."""
    controller, terminal = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "logitlake",
        "sql",
        "--config",
        str(filled.config_file),
    ]
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env=environment
    ) as program:
        os.close(terminal)
        try:
            assert _read_until(controller, "lake>")
            for _ in range(3):
                # A signal that comes before the query has begun clears the line instead: then it is typed again.
                os.write(controller, b"SELECT count(*) FROM range(100000000000000);\r")
                _read_until(controller, "000;", patience=5.0)
                program.send_signal(signal.SIGINT)
                if _read_until(controller, "stopped", patience=20.0):
                    break
            else:
                pytest.fail("the query was never stopped")
            os.write(controller, b"SELECT 40 + 2 AS answer;\r")
            assert _read_until(controller, "42")
            os.write(controller, b"quit\r")
            assert program.wait(timeout=60) == 0
        finally:
            program.kill()
            os.close(controller)


def _read_until(controller: int, words: str, *, patience: float = 60.0) -> bool:
    """Whether the words appear before patience ends."""
    seen, deadline = "", time.monotonic() + patience
    while words not in seen and (left := deadline - time.monotonic()) > 0:
        if select.select([controller], [], [], left)[0]:
            try:
                seen += os.read(controller, 4096).decode(errors="replace")
            except OSError:
                return words in seen
    return words in seen
