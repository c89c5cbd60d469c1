"""Generated code runs with its tests, within limits, and leaves nothing behind."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from logitlake.pipeline.settings.verifier import Case, VerifierSettings
from logitlake.pipeline.traces.verifiers.code import _warn, program_of
from logitlake.pipeline.traces.verifiers.sandbox import Limits, Outcome, is_isolated, isolation, run_program
from logitlake.storage.errors import SettingsError

LIMITS = Limits(seconds=20, memory_bytes=1 << 29)
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


def case(completion: str, prompt: str = "Write add.", reference: str = TESTS) -> Case:
    return Case(doc_id="d" * 64, prompt=prompt, completion=completion, reference=reference, finished=True)


def test_code_that_passes_its_tests_is_right_and_other_code_is_wrong() -> None:
    right = case("Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.")
    wrong = case("```python\ndef add(a, b):\n    return a - b\n```")
    broken = case("```python\ndef add(a, b:\n```")
    judged = VerifierSettings(name="code", workers=3).judge([right, wrong, broken])
    assert [judgement.score for judgement in judged if judgement] == [1.0, 0.0, 0.0]
    assert judged[1] is not None and "AssertionError" in judged[1].reason
    assert judged[2] is not None and "SyntaxError" in judged[2].reason


def test_the_code_of_a_completion_is_its_last_block_else_all_of_it() -> None:
    assert program_of(case("```\na\n```\n```python\nb\n```"), "t", with_prompt=True) == "b\n\n\nt"
    assert program_of(case("    return a + b", prompt="def add(a, b):\n"), "t", with_prompt=True) == (
        "def add(a, b):\n    return a + b\n\nt"
    )
    assert program_of(case("x = 1"), "t", with_prompt=False) == "x = 1\n\nt"
    assert program_of(case("```python\ncut"), "t", with_prompt=False) == "cut\n\nt"


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("```bash\npip install x\n```\nThen\n```python\nb\n```\nDone.", "b\n"),
        ("```bash\npip install x\n``` Then ```python\nb\n``` Done.", "b\n"),
        ("```python\nb\n```\nIt prints\n```text\n3\n```\n", "b\n"),
        ("Run it with ```python x.py``` here:\n```py\nb\n```", "b\n"),
        ("```Python 3.11 title=x\nb\n```\n```json\n{}\n```", "b\n"),
        ("````python\ns = '```'\n````\nDone.", "s = '```'\n"),
        ("```{.python}\nb\n```", "b\n"),
        ("```pycon\n>>> a\n```\n```python3\nb", "b"),
        ("```  \r\nb\n```", "b\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("`" * 100_000, "`" * 100_000),
    ],
    ids=range(11),
)
def test_blocks_of_other_languages_are_no_code(completion: str, code: str) -> None:
    assert program_of(case(completion), "t", with_prompt=False) == f"{code}\n\nt"


@pytest.mark.parametrize("before", ["print('a', end=' ')", "import os\nos.write(1, b'a')"])
def test_a_program_that_ends_within_a_line_passes(before: str) -> None:
    assert run_program(before, LIMITS).passed


@pytest.mark.parametrize("early", ["raise SystemExit(0)", "import os; os._exit(0)", "import sys; sys.exit()"])
def test_leaving_before_the_tests_is_no_pass(early: str) -> None:
    assert run_program(early, LIMITS) == Outcome(passed=False, reason="ended before its last line")


def test_a_loop_ends_at_the_time_limit() -> None:
    began = time.monotonic()
    outcome = run_program("while True: pass", Limits(seconds=1.0))
    assert not outcome.passed and time.monotonic() - began < 15


def test_memory_and_files_have_bounds() -> None:
    memory = run_program("x = bytearray(1 << 31)", LIMITS)
    assert (memory.passed, "MemoryError" in memory.reason) == (False, True)
    assert not run_program("open('large', 'wb').write(b'x' * (32 << 20))", LIMITS).passed


def test_what_a_program_leaves_behind_is_killed_with_it(tmp_path: Path) -> None:
    sign = tmp_path / "alive"
    child = f"import time; time.sleep(1); open({str(sign)!r}, 'w')"
    source = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])"
    assert run_program(source, LIMITS).passed
    time.sleep(1.5)
    assert not sign.exists()


def test_a_program_sees_none_of_our_environment_and_its_folder_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_A_TEST", "x")
    note = tmp_path / "note"
    source = f"import os\nassert 'SECRET_OF_A_TEST' not in os.environ\nopen({str(note)!r}, 'w').write(os.getcwd())"
    assert run_program(source, LIMITS).passed
    assert not Path(note.read_text()).exists() and Path(note.read_text()) != Path.cwd()


@pytest.fixture(params=["without a PID namespace", "without any"])
def poor_isolation(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`unshare` fails as it does in many containers."""
    real = shutil.which("unshare")
    if not isolation() or real is None:
        pytest.skip("no namespaces here")
    refused = "*--pid*" if request.param == "without a PID namespace" else "*"
    (tmp_path / "unshare").write_text(f'#!/bin/sh\ncase "$*" in {refused}) exit 1;; esac\nexec {real} "$@"\n')
    (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    isolation.cache_clear()
    _warn.cache_clear()
    yield request.param
    isolation.cache_clear()
    _warn.cache_clear()


def test_isolation_that_is_required_is_refused_where_a_program_sees_other_processes(poor_isolation: str) -> None:
    assert bool(isolation()) == (poor_isolation == "without a PID namespace")
    with pytest.raises(SettingsError, match="isolation required"):
        VerifierSettings(name="code", isolation="required").judge([case("x = 1", reference="")])


def test_poor_isolation_is_one_warning(poor_isolation: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        VerifierSettings(name="code").judge([])
    (message,) = caplog.messages
    assert ("with the network" in message) == (poor_isolation == "without any")
    assert "beside other processes" in message


@pytest.mark.skipif(not is_isolated(), reason="no namespaces here")
def test_what_a_program_starts_in_a_session_of_its_own_is_killed_with_it(tmp_path: Path) -> None:
    sign = tmp_path / "alive"
    child = f"import time; time.sleep(0.2); open({str(sign)!r}, 'w')"
    source = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    assert run_program(source, LIMITS).passed
    time.sleep(0.5)
    assert not sign.exists()


@pytest.mark.skipif(not isolation(), reason="no namespaces here")
def test_a_program_has_no_network() -> None:
    source = (
        "import socket\n"
        "server = socket.socket()\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "except ConnectionRefusedError:\n    raise SystemExit('there is a network')\n"
        "except OSError:\n    pass\n"
    )
    assert run_program(source, LIMITS).passed


@pytest.mark.parametrize(
    "source",
    [
        "import os\nfor name in os.listdir('.'): os.remove(name)",
        "import os, shutil\nshutil.rmtree(os.getcwd())",
        "import os\nfor name in ('stdout.txt', 'stderr.txt'):\n    if os.path.exists(name): os.remove(name)\n"
        "    os.mkfifo(name)",
        "import os\nos.ftruncate(1, 0)\nos.lseek(1, 1 << 20, 0)",
    ],
)
def test_a_program_that_removes_or_replaces_its_files_is_judged_like_any_other(source: str) -> None:
    assert run_program(source, LIMITS).passed
    failed = run_program(f"{source}\nraise SystemExit('no')", LIMITS)
    assert failed == Outcome(passed=False, reason="exit code 1: no")


def test_odd_text_is_a_wrong_program_and_no_crash() -> None:
    assert not run_program("\ud800 \0", LIMITS).passed
    assert os.getpid() > 1
