"""How results are written."""

import csv
import io
import json
import logging
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from rich.console import Console

from logitlake.flows.terminal.output import Format, print_record, print_rows, printed_messages, readable, say


def test_json_has_no_nan_and_huge_sums_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"loss": float("nan"), "sum": Decimal("123456789012345678901"), "ids": [1, float("inf")], "blob": b"\x01"}]
    print_rows(rows, Format.JSON)
    assert json.loads(capsys.readouterr().out) == [
        {"loss": None, "sum": 123456789012345678901, "ids": [1, None], "blob": "01"}
    ]


def test_csv_keeps_times_lists_and_commas(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    print_rows([{"when": when, "text": "a, b", "ids": [1, 2]}], Format.CSV)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row == {"when": "2030-01-02T03:04:05+00:00", "text": "a, b", "ids": "[1, 2]"}


def test_a_table_is_cut_for_a_person_and_csv_never(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pa.table({"n": list(range(700))})
    print_rows(rows, Format.TABLE)
    written = capsys.readouterr()
    assert "200 more rows" in written.err
    print_rows(rows, Format.CSV)
    assert len(capsys.readouterr().out.splitlines()) == 701


@pytest.mark.parametrize("form", [Format.JSON, Format.CSV])
def test_columns_of_one_name_keep_their_own_values(capsys: pytest.CaptureFixture[str], form: Format) -> None:
    rows = pa.Table.from_arrays([pa.array([value]) for value in (1, 2, 3, 4)], names=["a", "a", "a_1", "a"])
    print_rows(rows, form)
    expected = {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}
    written = capsys.readouterr().out
    if form is Format.JSON:
        assert json.loads(written) == [expected]
    else:
        assert list(csv.DictReader(io.StringIO(written))) == [{name: str(value) for name, value in expected.items()}]


def test_no_rows_are_an_empty_list_or_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], Format.JSON, columns=["a", "b"])
    print_rows([], Format.CSV, columns=["a", "b"])
    assert capsys.readouterr().out == "[]\na,b\n"


def test_markup_in_a_value_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"token": "[bold]x[/bold]"}, Format.TABLE)
    assert "[bold]x[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (98765.4, "98,765"),
        (-0.0, "0"),
        ("x", "x"),
    ],
)
def test_values_are_readable(value: object, text: str) -> None:
    assert readable(value) == text


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> io.StringIO:
    """Standard output as a terminal so wide."""
    written = io.StringIO()
    terminal = Console(file=written, width=columns, force_terminal=True, color_system=None, markup=False)
    monkeypatch.setattr("logitlake.flows.terminal.output.console", lambda: terminal)
    return written


def test_more_columns_than_a_terminal_has_room_for_stand_below_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal(monkeypatch, 60)
    print_rows([{f"column_{n}": "words that are long" for n in range(12)}], Format.TABLE)
    assert written.getvalue().count("words that are long") == 12
    assert max(map(len, written.getvalue().splitlines())) <= 60


def test_few_columns_stand_beside_one_another_and_a_huge_value_is_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = on_a_terminal(monkeypatch, 80)
    print_rows([{"name": "a", "ids": list(range(5000))}], Format.TABLE)
    assert "name" in written.getvalue().splitlines()[1]
    assert "all of them with --format json" in " ".join(written.getvalue().split())
    assert "4999" not in written.getvalue()


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("n_columns", range(1, 9))
def test_no_word_of_a_table_is_broken_at_any_width(
    monkeypatch: pytest.MonkeyPatch, columns: int, n_columns: int
) -> None:
    written = on_a_terminal(monkeypatch, columns)
    row = {f"column_{n}": f"some-words-{n} and a sentence of several more" for n in range(n_columns)}
    print_rows([row | {"number": 1234567.0}], Format.TABLE)
    words = written.getvalue().split()
    assert {f"some-words-{n}" for n in range(n_columns)} <= set(words) and "1,234,567" in words
    assert words.count("sentence") == n_columns
    assert max(map(len, written.getvalue().splitlines())) <= columns


def test_nothing_in_a_table_is_obeyed_by_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"token": "\x1b[2J"}], Format.TABLE)
    say("logitlake: no file '\x1b[2J'")
    written = capsys.readouterr()
    assert "\x1b" not in written.out + written.err


@pytest.mark.parametrize("name", ["logitlake.flows.capture.run", "logitlake.pipeline.reading.local_copy"])
def test_what_a_run_logs_is_printed_while_a_command_runs_and_at_no_other_time(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    log = logging.getLogger(name)
    log.warning("before")
    with printed_messages():
        log.info("the teacher is loaded \x1b[2J")
        log.debug("a detail")
    log.warning("after")
    assert capfd.readouterr() == ("", "the teacher is loaded ␛[2J\n")
