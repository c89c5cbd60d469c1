"""What a killed transaction wrote and somebody else wrote again is there once after a rebuild."""

import signal
from pathlib import Path
from random import Random

import pytest

from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import promote, roll_back, student_of
from tests.crash.contents import contents_of, doubled
from tests.crash.killed_child import Children, Kill
from tests.crash.operation import Operation, Order
from tests.crash.site import Site, make_site
from tests.crash.storage_operations import Commit, Decide, Rebuild


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A lake whose alias points to the second of two students."""
    site = make_site(tmp_path, with_models=False)
    for number in range(2):
        order = {"before": f"student {number - 1}" if number else None, "how": "promote"}
        Decide().carry_out(site, {**order, "student_id": f"student {number}", "run_id": f"run {number}"}, _no_tell)
    return site


def kill_and_repeat(site: Site, operation: Operation, order: Order, failpoint: str) -> None:
    """Kill the operation in a transaction, do it again as another run, and rebuild the catalog."""
    kill = Kill(signal.SIGKILL, failpoint)
    assert Children().run(operation, site, order, kill).is_hit(kill)
    operation.carry_out(site, {**order, "run_id": "again"}, _no_tell)
    Rebuild().carry_out(site, Rebuild().order(site, Random(0), ""), _no_tell)
    assert doubled(contents_of(site.location)) == []


@pytest.mark.slow
def test_a_unit_has_one_commit(site: Site) -> None:
    order = Commit().order(site, Random(0), "x")
    kill_and_repeat(site, Commit(), order, "rows-registered:2")
    with Lake.open(site.location) as lake:
        runs = set(lake.sql("SELECT run_id FROM store.commits")["run_id"].to_pylist())
    assert runs == {"first", "again"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "failpoint", "decisions"),
    [
        ("promote", "rows-registered:2", ["promoted"] * 3),
        ("promote and roll back", "rows-registered:3", [*["promoted"] * 3, "rolled back"]),
        ("reject", "rows-registered:2", ["promoted", "promoted", "rejected"]),
    ],
)
def test_an_alias_is_decided_about_once(site: Site, how: str, failpoint: str, decisions: list[str]) -> None:
    order = {"before": "student 1", "student_id": "student 2", "run_id": "killed", "how": how}
    kill_and_repeat(site, Decide(), order, failpoint)
    with Lake.open(site.location, read_only=False) as lake:
        held = lake.sql("SELECT decision FROM promotions ORDER BY commit_number")["decision"].to_pylist()
        assert held == decisions
        current = "student 2" if how == "promote" else "student 1"
        assert student_of(lake, "made") == current
        promote(lake, "student 3", expected=current, figures={}, run_id="later", alias="made")
        assert roll_back(lake, expected="student 3", run_id="later", alias="made") == current


def _no_tell(number: int) -> None:
    return
