"""Whatever is damaged in a lake: no answer changes, or `verify` finds it, or the command says what is wrong.

A reader of training rows never gives other numbers. A rebuild never takes a wrong row and names what it leaves out.
Each case is made from its number and the seed, which its name shows.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import RebuildReport, rebuild
from logitlake.storage.repair.repair import repair
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.verification.file_statistics import check_statistics
from logitlake.storage.verification.inspection import Inspection, inspect
from tests.damage import Damage, batch_answers, damage, files_by_kind, make_lake, sql_answers

SEED = 0
# The files of one kind after the other: the quick cases damage what a reader meets first.
_QUICK = 2
CASES = [pytest.param(number, marks=pytest.mark.slow if number >= _QUICK else ()) for number in range(120)]
KINDS_FIRST = (
    *("catalog.sqlite", "table sequences", "table commits", "table documents", "catalog.sqlite-wal", "table recipes"),
    *("table promotions", "table tombstones", "table students", "recipes", "tombstones", "lake.json", "table row_sets"),
    *("table document_sources", "table run_events", "table row_set_documents", "table row_set_queries", "students"),
    *("table student_losses", "table vocabulary", "table rejects", "lake-copy.json", "last-commit.json"),
)
# Nothing beside the data tells that a file of these tables is gone, if the catalog is gone too.
_UNTOLD = frozenset(
    {"run_events", "promotions", "rejects", "row_sets", "row_set_queries", "row_set_documents", "students"}
    | {"student_losses", "vocabulary", "document_sources"}
)
# Set anew by a rebuild.
_NEW_COLUMNS = {"recipes": {"created_at", "row_hash"}, "tombstones": {"forgotten_at", "row_hash"}}


class Intact(NamedTuple):
    """A lake without damage, its answers (before the last commits as well), and its rows after a rebuild."""

    location: LakeLocation
    views: list[dict[str, str]]
    batches: dict[str, str]
    rows: dict[str, set[str]]


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Intact:
    states = make_lake(tmp_path_factory.mktemp("intact"))
    # A lake is changed when it is opened: its journal is emptied.
    copies = [copy_of(state, tmp_path_factory.mktemp("copy") / "lake") for state in states]
    assert problems_of(copies[-1]) == []
    views, batches = [sql_answers(copy) for copy in copies], batch_answers(copies[-1])
    _, rows = rebuilt(copies[-1])
    return Intact(states[-1], views, batches, rows)


def copy_of(location: LakeLocation, directory: Path) -> LakeLocation:
    assert location.state_directory is not None
    shutil.copytree(location.state_directory, directory)
    return LakeLocation.resolve(directory)


def problems_of(location: LakeLocation) -> list[str]:
    """What `logitlake verify` says."""
    with Lake.open(location) as lake:
        found = inspect(lake)
        files = [check.problem for check in check_statistics(lake) if check.problem]
    return [*problems(found), *files]


def problems(found: Inspection) -> list[str]:
    damaged = [check.problem for check in (*found.damaged_units, *found.damaged_tables)]
    return [*damaged, *found.torn_shards, *found.missing, *filter(None, [found.unchecked])]


def rebuilt(location: LakeLocation) -> tuple[RebuildReport, dict[str, set[str]]]:
    """The report of a rebuild, and the rows of every table after it."""
    assert location.state_directory is not None
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    report = rebuild(location)
    with Lake.open(location) as lake:
        names = [name for name in TABLES if name not in ("guard", "lake_settings")]
        rows = {name: _rows(name, lake.sql(f"FROM store.{name}").to_pylist()) for name in names}
    return report, rows


def _rows(table: str, rows: list[dict[str, Any]]) -> set[str]:
    new = _NEW_COLUMNS.get(table, set())
    return {repr({name: value for name, value in row.items() if name not in new}) for row in rows}


def outcome(call: Callable[[LakeLocation], Any], location: LakeLocation) -> Any:
    """What a call returns, or its error if that is one of ours."""
    try:
        return call(location)
    except LogitlakeError as error:
        assert str(error) and "Stack Trace" not in str(error)
        return error


@pytest.mark.parametrize("number", CASES)
def test_no_damage_is_used_in_silence(intact: Intact, tmp_path: Path, number: int) -> None:
    noise = random.Random(f"{SEED} {number}")
    location = copy_of(intact.location, tmp_path / "lake")
    kinds = sorted(files_by_kind(location), key=KINDS_FIRST.index)
    done = damage(noise, location, kinds[number % len(kinds)])
    check_answers(intact, location, done, f"case {number} of seed {SEED}: {done}")
    if done.path.is_relative_to(location.data):
        if number >= _QUICK:
            check_repair(copy_of(location, tmp_path / "repaired"), done)
        check_rebuild(intact, location, done)


def check_answers(intact: Intact, location: LakeLocation, done: Damage, case: str) -> None:
    """SQL, readers and verify on a damaged lake."""
    found = outcome(problems_of, location)
    views = outcome(sql_answers, location)
    if isinstance(views, dict) and not found:
        expected = intact.views if done.kind == "catalog.sqlite-wal" else intact.views[-1:]
        changed = [name for name, answer in views.items() if answer != intact.views[-1].get(name)]
        assert views in expected, f"{case}: verify found nothing, but {changed} changed"
    batches = outcome(batch_answers, location)
    assert isinstance(batches, LogitlakeError) or batches == intact.batches, f"{case}: verify found {found}"


def check_repair(location: LakeLocation, done: Damage) -> None:
    """A repair of what is damaged: the lake is whole after it, and what left it was named."""
    documents = "SELECT DISTINCT recipe_id, doc_id FROM store.documents"
    with Lake.open(location, read_only=False) as lake:
        before = outcome(lambda _: lake.sql(documents).to_pylist(), location)
        report = outcome(lambda _: repair(lake), location)
        if isinstance(report, LogitlakeError):
            return
        left = problems(inspect(lake))
        assert left == [] or report.problems, f"{done}: after the repair {left}"
        present = {(row["recipe_id"], row["doc_id"]) for row in lake.sql(documents).to_pylist()}
    named = {(lost.recipe_id, lost.doc_id) for lost in report.documents}
    if not isinstance(before, LogitlakeError):
        gone = {(row["recipe_id"], row["doc_id"]) for row in before} - present
        assert gone <= named or report.removed, f"{done}: {gone - named} left the lake in silence"


def check_rebuild(intact: Intact, location: LakeLocation, done: Damage) -> None:
    """The damage that lies in the data path, met by a rebuild."""
    answer = outcome(rebuilt, location)
    if isinstance(answer, LogitlakeError):
        return
    report, rows = answer
    for table, expected in intact.rows.items():
        wrong = {row for row in rows[table] - expected if "'run_id': 'rebuild'" not in row}
        assert wrong == set(), f"{done}: wrong rows in {table}"
        if expected - rows[table] and not (table in _UNTOLD and done.action.startswith("removed")):
            named = report.damaged or report.skipped
            assert named, f"{done}: {len(expected - rows[table])} rows of {table} were left out in silence"
    assert problems_of(location) == [], f"{done}: after the rebuild"
