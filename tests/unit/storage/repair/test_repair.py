"""Repair: what is intact stays, what another place holds comes back, the rest leaves the lake by name."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError, LakeBusyError, LostRaceError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.recovery.repeated_records import without_repeats_of
from logitlake.storage.recovery.table_files import DELETES_SUFFIX
from logitlake.storage.repair.repair import RepairReport, repair
from logitlake.storage.repair.shard_repair import replace_shards
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.shards import writing
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.inspection import Inspection, inspect, inspect_known, record
from logitlake.storage.verification.known_damage import known_damage, summary
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.known_documents import KnownDocuments
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    for names in (("a", "b"), ("c", "d"), ("e",)):
        commit_unit(lake, make_rows(*names), recipe=recipe, run_id="run", seconds=1.0)
    return lake


def shards(location: LakeLocation) -> list[Path]:
    paths = location.data_directory.glob("store/sequences/**/*.parquet")
    return sorted(path for path in paths if not path.name.endswith(DELETES_SUFFIX))


def shard_of(location: LakeLocation, name: str) -> Path:
    (path,) = [p for p in shards(location) if document_id(name) in pq.read_table(p, columns=["doc_id"])[0].to_pylist()]
    return path


def note_size(location: LakeLocation, path: Path) -> None:
    """Let the catalog expect the size that the file has: DuckLake finds the footer by it."""
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    with closing(sqlite3.connect(str(location.catalog_file), timeout=20)) as catalog, catalog:
        catalog.execute(
            "UPDATE ducklake_data_file SET file_size_bytes = ?, footer_size = ? WHERE path LIKE ?",
            [path.stat().st_size, footer, f"%{path.name}"],
        )


def change_row(location: LakeLocation, path: Path, name: str, **values: Any) -> None:
    """Change columns of window 1 of a document, and leave its hashes as they are."""
    with pq.ParquetFile(path) as file:
        rows = file.read()
    key = (document_id(name), 1)
    changed = [row | values if (row["doc_id"], row["window_index"]) == key else row for row in rows.to_pylist()]
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), path)
    note_size(location, path)


def break_pages(path: Path, group: int | None = None) -> None:
    """Overwrite the pages of a file, or of one of its row groups; the footer stays as it is."""
    content = bytearray(path.read_bytes())
    begin, end = 4, len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    if group is not None:
        with pq.ParquetFile(path) as file:
            columns = [file.metadata.row_group(group).column(n) for n in range(file.metadata.num_columns)]
        begins = [min(filter(None, (c.dictionary_page_offset, c.data_page_offset))) for c in columns]
        begin, end = min(begins), max(b + c.total_compressed_size for b, c in zip(begins, columns, strict=True))
    content[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def append_zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(64))


TEARS: dict[str, Callable[[Path], None]] = {
    "its end is gone": cut,
    "it is gone": Path.unlink,
    "it is empty": lambda path: path.write_bytes(b"") and None,
    "its pages are broken": break_pages,
    "zeros follow": append_zeros,
}


def rows_of_lake(lake: Lake) -> list[dict[str, Any]]:
    return lake.sql("FROM store.sequences ORDER BY doc_id, window_index").to_pylist()


def ids(*names: str) -> list[str]:
    return sorted(map(document_id, names))


def is_mended(lake: Lake, report: RepairReport, lost: tuple[str, ...], names: tuple[str, ...] = NAMES) -> None:
    """These documents have left the lake, all others are whole, and nothing is damaged any more."""
    assert sorted(document.doc_id for document in report.documents) == ids(*lost)
    assert report.problems == []
    left = ids(*(set(names) - set(lost)))
    assert sorted({row["doc_id"] for row in rows_of_lake(lake)}) == left
    assert sorted(lake.sql("SELECT doc_id FROM documents")["doc_id"].to_pylist()) == left
    recipe_ids = lake.sql("SELECT DISTINCT recipe_id FROM store.documents")["recipe_id"].to_pylist()
    assert KnownDocuments(lake, recipe_ids[0])(ids(*names)) == set(left)
    assert inspect(lake).is_clean
    assert known_damage(lake) == []
    assert repair(lake).is_clean


CHANGES = {
    "a statistic": {"mean_entropy": 9.0},
    "targets": {"input_ids": [9, 9, 9]},
    "the document": {"doc_id": document_id("nobody")},
    "the window": {"window_index": 0},
    "the unit": {"unit_id": "other"},
}
_QUICK = ("a statistic",)


@pytest.mark.parametrize(
    "values",
    [pytest.param(v, id=name, marks=() if name in _QUICK else pytest.mark.slow) for name, v in CHANGES.items()],
)
def test_a_damaged_row_costs_its_document_and_a_new_commit_brings_the_same_rows(
    filled, location, make_rows, recipe, values
):
    before, path = rows_of_lake(filled), shard_of(location, "a")
    change_row(location, path, "a", **values)
    content = path.read_bytes()
    record(filled, inspect(filled))
    assert {damage.doc_id for damage in known_damage(filled)} == {document_id("a")}
    report = repair(filled)
    is_mended(filled, report, ("a",))
    (file,) = report.files
    assert file.file == str(path) and Path(file.copy).read_bytes() == content
    commit_unit(filled, make_rows("a", "b"), recipe=recipe, run_id="again", seconds=1.0)
    without_unit = [{**row, "unit_id": "", "row_hash": 0} for row in rows_of_lake(filled)]
    assert without_unit == [{**row, "unit_id": "", "row_hash": 0} for row in before]


@pytest.mark.parametrize(
    "tear",
    [
        pytest.param(tear, id=name, marks=pytest.mark.slow if place else ())
        for place, (name, tear) in enumerate(TEARS.items())
    ],
)
def test_a_shard_that_can_not_be_read_costs_its_documents_only(filled, location, tear):
    tear(shard_of(location, "c"))
    assert not inspect(filled).is_clean
    is_mended(filled, repair(filled), ("c", "d"))


@pytest.mark.slow
def test_whole_row_groups_of_a_torn_merged_shard_are_kept(filled, location, monkeypatch):
    monkeypatch.setattr(writing, "_ROW_GROUP_TOKENS", 6)
    for merge in plan_compaction(filled, target_bytes=1 << 30):
        assert compact(filled, merge) is not None
    for path in shards(location):
        if not path.name.startswith("merged-"):
            path.unlink()
    (merged,) = shards(location)
    with pq.ParquetFile(merged) as file:
        assert file.num_row_groups == 5
        doc_id = file.read_row_group(2)["doc_id"][0].as_py()
    break_pages(merged, group=2)
    is_mended(filled, repair(filled), tuple(name for name in NAMES if document_id(name) == doc_id))


@pytest.mark.slow
def test_documents_are_taken_from_the_files_that_were_merged_as_long_as_these_are_there(filled, location):
    before = rows_of_lake(filled)
    for merge in plan_compaction(filled, target_bytes=1 << 30):
        assert compact(filled, merge) is not None
    (merged,) = [path for path in shards(location) if path.name.startswith("merged-")]
    cut(merged)
    report = repair(filled)
    is_mended(filled, report, ())
    assert report.n_copies == 5
    assert rows_of_lake(filled) == before


@pytest.mark.slow
def test_a_forgotten_document_does_not_come_back_from_a_damaged_shard(filled, location):
    forget(filled, ids("a"), reason="asked")
    path = shard_of(location, "c")
    change_row(location, shard_of(location, "b"), "b", mean_nll=9.0)
    for merge in plan_compaction(filled, target_bytes=1):
        with pytest.raises(IntegrityError):
            compact(filled, merge)
    change_row(location, path, "c", mean_nll=9.0)
    is_mended(filled, repair(filled), ("b", "c"), names=("b", "c", "d", "e"))


@pytest.mark.slow
def test_upkeep_removes_the_damaged_file_and_keeps_its_copy(filled, location):
    path = shard_of(location, "a")
    cut(path)
    content = path.read_bytes()
    repair(filled)
    merge_small_tables(filled)
    sweep(filled, grace=timedelta(0))
    assert not path.exists()
    (copy,) = (location.data_directory / "damaged").iterdir()
    assert copy.read_bytes() == content


@pytest.mark.slow
def test_a_dry_run_says_the_same_and_changes_nothing(filled, location):
    cut(shard_of(location, "a"))
    before = filled.commit_number
    files = sorted(path for path in location.data_directory.rglob("*"))
    with Lake.open(location) as reader:
        foreseen = repair(reader, dry_run=True)
    assert filled.commit_number == before
    assert sorted(path for path in location.data_directory.rglob("*")) == files
    done = repair(filled)
    assert [d.doc_id for d in foreseen.documents] == [d.doc_id for d in done.documents]
    assert [f.file for f in foreseen.files] == [f.file for f in done.files]


@pytest.mark.slow
def test_only_the_named_units_are_repaired(filled, location):
    for name in ("a", "c"):
        change_row(location, shard_of(location, name), name, mean_nll=9.0)
    unit_id = filled.row("SELECT unit_id FROM store.documents WHERE doc_id = ?", [document_id("a")])["unit_id"]
    assert [d.doc_id for d in repair(filled, unit_ids=[unit_id]).documents] == ids("a")
    assert [unit.problem == "" for unit in inspect(filled).units].count(False) == 1
    is_mended(filled, repair(filled), ("c",), names=("b", "c", "d", "e"))


@pytest.mark.slow
def test_an_older_catalog_is_refused_and_nothing_is_changed(filled, location, make_rows, recipe, tmp_path):
    filled.close()
    backup = shutil.copy(location.catalog_file, tmp_path / "backup.sqlite")
    with Lake.open(location, read_only=False) as lake:
        commit_unit(lake, make_rows("x"), recipe=recipe, run_id="later", seconds=1.0)
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    shutil.copy(backup, location.catalog_file)
    cut(shard_of(location, "a"))
    with pytest.raises(IntegrityError, match="logitlake rebuild"), Lake.open(location, read_only=False):
        pass
    with Lake.open(location) as lake:
        assert repair(lake, dry_run=True).problems
    # As an older logitlake leaves it, which notes no number of its last commit.
    (location.data_directory / "last-commit.json").unlink()
    files = sorted(path for path in location.data_directory.rglob("*"))
    with Lake.open(location, read_only=False) as lake:
        with pytest.raises(IntegrityError, match="logitlake rebuild"):
            repair(lake)
        assert repair(lake, dry_run=True).problems
    assert sorted(path for path in location.data_directory.rglob("*")) == files


@pytest.mark.parametrize("table", ["sequences", "commits"])
def test_an_intact_file_that_the_catalog_describes_wrongly_is_named_and_left_alone(filled, location, table):
    path = min(location.data_directory.glob(f"store/{table}/**/*.parquet"))
    with closing(sqlite3.connect(str(location.catalog_file), timeout=20)) as catalog, catalog:
        query = "UPDATE ducklake_data_file SET footer_size = footer_size + 1 WHERE path LIKE ?"
        catalog.execute(query, [f"%{path.name}"])
    report = repair(filled)
    assert any(str(path) in problem and "the size that the catalog expects" in problem for problem in report.problems)
    assert report.files == [] and report.documents == [] and report.removed == []


def test_a_repair_is_refused_while_upkeep_runs(filled, location):
    with single_writer(location, "maintain"), pytest.raises(LakeBusyError, match="another maintain"):
        repair(filled)


def test_damage_is_recorded_until_a_restored_file_is_verified(filled, location):
    path = shard_of(location, "a")
    content = path.read_bytes()
    cut(path)
    assert record(filled, inspect(filled))
    number = filled.commit_number
    assert not record(filled, inspect(filled)) and filled.commit_number == number
    rows = filled.sql("SELECT table_name, doc_id, file FROM damage ORDER BY doc_id").to_pylist()
    name = str(path.relative_to(location.data_directory))
    assert rows == [{"table_name": "sequences", "doc_id": d, "file": name} for d in ids("a", "b")]
    assert summary(filled).startswith("2 documents in 1 work units")
    path.write_bytes(content)
    assert record(filled, inspect(filled))
    assert known_damage(filled) == [] and summary(filled) == ""


# What comes back of a table whose every row was damaged, and from where.
COMES_BACK = {"lake_settings", "documents", "recipes", "students", "tombstones"}
# Rows that nothing but a backup brings back.
NOTHING_ELSE = {"run_events", "row_sets", "row_set_queries", "row_set_documents", "promotions"}

HASHED = [name for name, table in TABLES.items() if table.hashed]
# One table of each kind: what comes back, what is made from others, and what is lost.
QUICK_TABLES = {"documents", "commits", "rejects"}
_TEARS = {"cut": cut, "pages": break_pages, "gone": Path.unlink}
TORN_TABLES = [
    pytest.param(
        tear, name, id=f"{kind}-{name}", marks=() if kind == "cut" and name in QUICK_TABLES else pytest.mark.slow
    )
    for kind, tear in _TEARS.items()
    for name in HASHED
]


def key_rows(lake: Lake, name: str) -> set[tuple[Any, ...]]:
    key = [column for column in TABLES[name].key if column != "created_at"]
    return {tuple(map(str, row.values())) for row in lake.sql(f"SELECT {', '.join(key)} FROM store.{name}").to_pylist()}


@pytest.mark.parametrize(("tear", "name"), TORN_TABLES)
def test_a_torn_small_table_is_mended_and_what_is_lost_is_named(full_lake, location, tear, name):
    before = key_rows(full_lake, name)
    for path in location.data_directory.glob(f"store/{name}/*.parquet"):
        if not path.name.endswith(DELETES_SUFFIX):
            tear(path)
    report = repair(full_lake)
    assert report.problems == []
    found = inspect(full_lake)
    assert found.is_clean, (found.damaged_tables, found.damaged_units)
    after = key_rows(full_lake, name)
    if name in COMES_BACK:
        assert after == before and not report.removed
    elif name == "commits":
        assert {key[1] for key in after} == {key[1] for key in before}
    else:
        assert not after & before or name == "damage"
        (removed,) = [removed for removed in report.removed if removed.table == name]
        assert removed.rows and removed.is_final == (name in NOTHING_ELSE)
    assert full_lake.row("SELECT count(*) AS n FROM sequences")["n"] == 6
    Lake.open(location).close()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK_TABLES else pytest.mark.slow) for name in HASHED]
)
def test_a_changed_row_of_a_small_table_is_removed_or_made_again(full_lake, location, damage, name):
    n_rows = full_lake.row(f"SELECT count(*) AS n FROM store.{name}")["n"]
    file = Path(full_lake.sql(f"FROM ducklake_list_files('lake', '{name}', schema => 'store')")["data_file"][0].as_py())
    n_damaged = full_lake.row(f"SELECT count(*) AS n FROM store.{name} WHERE filename = ?", [str(file)])["n"]
    damage(file, TABLES[name].key[0])
    report = repair(full_lake)
    assert inspect(full_lake).is_clean and report.problems == []
    if name in COMES_BACK | {"commits"}:
        assert full_lake.row(f"SELECT count(*) AS n FROM store.{name}")["n"] == n_rows
    elif name not in ("damage", "run_events"):
        assert full_lake.row(f"SELECT count(*) AS n FROM store.{name}")["n"] == n_rows - n_damaged
        assert report.removed and report.removed[0].rows


@pytest.mark.slow
def test_rows_of_a_merged_small_table_come_back_from_the_files_that_were_merged(full_lake, location):
    before = full_lake.sql("SELECT * FROM store.commits ORDER BY ALL").to_pylist()
    merge_small_tables(full_lake)
    named = full_lake.sql("FROM ducklake_list_files('lake', 'commits', schema => 'store')")["data_file"].to_pylist()
    cut(Path(*named))
    report = repair(full_lake)
    assert report.restored == {"commits": len(before)} and report.removed == []
    assert full_lake.sql("SELECT * FROM store.commits ORDER BY ALL").to_pylist() == before


def test_a_vocabulary_that_lost_tokens_is_completed_by_the_next_capture(full_lake, location):
    for path in location.data_directory.glob("store/vocabulary/*.parquet"):
        cut(path)
    repair(full_lake)
    register_vocabulary(full_lake, "words", ["<s>", "the"], {0})
    assert sorted(full_lake.sql("SELECT token FROM vocabulary")["token"].to_pylist()) == ["<s>", "the"]


@pytest.mark.slow
def test_documents_and_shards_that_are_damaged_at_once_are_mended(filled, location):
    cut(shard_of(location, "a"))
    for path in location.data_directory.glob("store/documents/*.parquet"):
        cut(path)
    report = repair(filled)
    assert report.problems == []
    assert inspect(filled).is_clean
    assert sorted(filled.sql("SELECT doc_id FROM documents")["doc_id"].to_pylist()) == ids("c", "d", "e")
    assert sorted({row["doc_id"] for row in rows_of_lake(filled)}) == ids("c", "d", "e")


def test_the_footer_of_a_new_shard_names_the_recipe(filled, location, recipe):
    change_row(location, shard_of(location, "a"), "a", mean_nll=9.0)
    repair(filled)
    (made,) = [path for path in shards(location) if path.name.startswith("repaired-")]
    footer = pq.read_metadata(made).metadata
    assert id_of_recipe(recipe) in str(made) and b'"tiny"' in footer[b"logitlake.recipe"]


def test_what_a_killed_process_left_is_not_taken_for_a_lost_row():
    """Its work was done again: the unit has a commit, and the alias was moved."""
    commits, promotions = TABLES["commits"].columns, TABLES["promotions"].columns

    def rows(schema, *given):
        nullable = pa.schema([field.with_nullable(True) for field in schema])
        return pa.Table.from_pylist([{**dict.fromkeys(schema.names), **row} for row in given], nullable)

    intact = rows(commits, {"unit_id": "a", "run_id": "again", "commit_number": 2})
    unnamed = rows(commits, {"unit_id": "a", "run_id": "killed", "commit_number": 2}, {"unit_id": "b"})
    assert without_repeats_of("commits", intact, unnamed)["unit_id"].to_pylist() == ["b"]
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 6)]

    def moved(number, student, decision="promoted"):
        facts = {"alias": "current", "student_id": student, "decision": decision}
        return facts | {"commit_number": number, "decided_at": moments[number - 1]}

    intact = rows(promotions, moved(1, "one"), moved(4, "three"), moved(5, "bad", "rejected"))
    unnamed = rows(promotions, moved(2, "two"), moved(3, "three"), moved(3, "bad", "rejected"))
    assert without_repeats_of("promotions", intact, unnamed)["student_id"].to_pylist() == ["two"]


def test_two_repairs_of_one_finding_bring_its_rows_once(filled, location):
    cut(shard_of(location, "a"))
    with Lake.open(location, read_only=False) as lake:
        number = lake.commit_number
        found = inspect(lake)
        assert repair(lake).problems == []
        held = lake.sql("SELECT doc_id FROM store.sequences").num_rows
        with pytest.raises(LostRaceError):
            replace_shards(lake, found.shards, found_at=number)
        assert lake.sql("SELECT doc_id FROM store.sequences").num_rows == held


def test_known_damage_stops_upkeep_whatever_its_sample(filled, location):
    """A repair that was killed has recorded what it found, and may have left the only good copies in unnamed files."""
    with Lake.open(location, read_only=False) as lake:
        units = lake.sql("SELECT DISTINCT unit_id FROM store.documents ORDER BY ALL")["unit_id"].to_pylist()
        cut(shard_of(location, "a"))
        found = inspect(lake)
        record(lake, found)
        (damaged,) = {unit.unit_id for unit in found.damaged_units}
        others = Inspection(units=[unit for unit in found.units if unit.unit_id != damaged])
        again = inspect_known(lake, others)
        assert again is not None and [unit.unit_id for unit in again.damaged_units] == [damaged]
        assert inspect_known(lake, found) is None
    assert damaged in units
