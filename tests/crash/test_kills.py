"""The campaign of kills (`python -m tests.crash`) in short, and what it says when something is wrong."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logitlake.storage import failpoints
from tests.crash import __main__ as command
from tests.crash import all_operations, campaign, site
from tests.crash.campaign import Campaign, Findings
from tests.crash.killed_child import Kill, Outcome
from tests.crash.operation import Operation
from tests.crash.planted import DoesNothing, DoublesADocument, LosesARow, TellsTooEarly
from tests.crash.site import Site, make_site
from tests.crash.storage_operations import Commit, Compact, Forget

SEED = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site without models."""
    return make_site(tmp_path_factory.mktemp("small"), with_models=False)


def play(small: Site, directory: Path, *operations: Operation, kills: int) -> Findings:
    return Campaign(small, directory, operations, seed=SEED).run(range(kills))


@pytest.mark.slow
def test_killed_operations_lose_nothing_and_double_nothing(small: Site, tmp_path: Path) -> None:
    findings = play(small, tmp_path, Commit(), Forget(), Compact(), kills=8)
    assert findings.problems == []
    assert [case.number for case in findings.cases] == list(range(8))
    assert findings.rebuilds == 1


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (LosesARow(), "lost: sequence"),
        pytest.param(DoublesADocument(), "2 times: ", marks=pytest.mark.slow),
        pytest.param(TellsTooEarly(), "after the kill: lost: ", marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Operation) else "",
)
def test_a_defect_is_found_and_named_with_its_case(
    small: Site, tmp_path: Path, operation: Operation, problem: str
) -> None:
    findings = play(small, tmp_path, operation, kills=12)
    assert problem in findings.problems[0]
    number = len(findings.cases)
    assert findings.problems[0].startswith(f"case {number}: commit, SIG")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(begun=False, exit_code=-signal.SIGKILL),
        Outcome(begun=True, ended=True, exit_code=-signal.SIGKILL),
        Outcome(begun=True, exit_code=-signal.SIGTERM),
        Outcome(begun=True, exit_code=0),
    ],
    ids=["had not begun", "had ended", "another signal", "was not killed"],
)
def test_only_a_kill_that_met_work_under_way_is_a_hit(outcome: Outcome) -> None:
    kill = Kill(signal.SIGKILL)
    assert Outcome(begun=True, exit_code=-signal.SIGKILL).is_hit(kill)
    assert not outcome.is_hit(kill)


def test_a_miss_is_not_counted(small: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation never comes to the failpoint."""
    monkeypatch.setattr(campaign, "_MOST_MISSES", 1)
    monkeypatch.setattr(Campaign, "_draw_kill", lambda *given: Kill(signal.SIGKILL, "student-trained"))
    findings = play(small, tmp_path, DoesNothing(), kills=5)
    assert findings.cases == []
    assert findings.misses["commit"] == 2
    assert "met no work under way" in findings.problems[0]


@pytest.mark.slow
def test_the_command_ends_with_1_and_names_seed_and_case(
    small: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(all_operations, "OPERATIONS", (DoublesADocument(),))
    monkeypatch.setattr(site, "make_site", lambda directory: small)
    monkeypatch.setattr(command, "set_environment", lambda directory: None)
    assert command.main(["--kills", "3", "--seed", "5"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^seed 5, case \d+: commit, SIG.*2 times: ", printed, re.MULTILINE)
    assert "problems 0" not in printed


@pytest.mark.slow
def test_a_hundred_kills_of_every_operation() -> None:
    call = [sys.executable, "-m", "tests.crash", "--kills", "100", "--jobs", "2", "--seed", str(SEED)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"seed {SEED}: 100 kills that met work under way" in done.stdout
    assert "problems 0" in done.stdout


@pytest.mark.slow
def test_the_operations_reach_every_failpoint(tmp_path: Path) -> None:
    played = Campaign(make_site(tmp_path), tmp_path, all_operations.OPERATIONS, seed=SEED)
    played.run(range(0))
    reached = {name for habits in played.habits.values() for name in habits.reached}
    # Those of a repair are played one by one in test_kill_upkeep.py, those with a server in test_server_away.py.
    elsewhere = {*failpoints.REPAIR_FAILPOINTS, *failpoints.SERVER_FAILPOINTS, *failpoints.COPY_FAILPOINTS}
    assert reached - elsewhere == set(failpoints.ALL) - elsewhere
