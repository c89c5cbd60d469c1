"""A rebuild over damaged files: what is intact is taken, what is not is named, and no file is removed."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import put_bytes, write_note
from logitlake.storage.errors import LakeError
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import RebuildReport, rebuild
from logitlake.storage.recovery.notes import forgotten_documents, noted_recipes, read_settings
from logitlake.storage.schema.tables import ROW_HASH, TABLES, Rebuild
from logitlake.storage.upkeep.compaction import compact, plan_compaction
from logitlake.storage.upkeep.forgetting import forget, forget_again
from logitlake.storage.upkeep.sweeping import holdings, sweep
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import SOURCES, commit_unit
from logitlake.storage.writing.recipes import register_recipe

NOW = timedelta(0)
BROKEN = (b"", b"{", b"[1]", b"{}", b"null", b"\xff\xfe")


@pytest.fixture
def filled(lake, make_rows, recipe):
    register_recipe(lake, recipe)
    for names in (("a", "b"), ("c", "d")):
        sources = [{"doc_id": document_id(n), "corpus": "books", "source": n, "line": None} for n in names]
        commit_unit(
            lake,
            make_rows(*names),
            recipe=recipe,
            run_id="run",
            seconds=1.0,
            sources=pa.Table.from_pylist(sources, SOURCES),
        )
    return lake


def rebuilt(lake: Lake) -> RebuildReport:
    """Close the lake, lose its catalog and make it again."""
    lake.close()
    for file in lake.location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    return rebuild(lake.location)


def age(location: LakeLocation) -> None:
    two_hours_ago = time.time() - 7200
    for path in location.data_directory.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))


def shards(location: LakeLocation) -> list[Path]:
    return sorted(location.data_directory.glob("store/sequences/**/*.parquet"))


def shard_of(location: LakeLocation, name: str) -> Path:
    (path,) = [p for p in shards(location) if document_id(name) in pq.read_table(p, columns=["doc_id"])[0].to_pylist()]
    return path


def change_rows(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a Parquet file again with changed rows and unchanged hashes."""
    with pq.ParquetFile(path) as file:
        rows = file.read()
    changed = pa.Table.from_pylist([change(row) for row in rows.to_pylist()], rows.schema)
    pq.write_table(changed, path)


def of(name: str, window: int, **values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A change of one row: the given window of a document."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | values if (row["doc_id"], row["window_index"]) == (document_id(name), window) else row

    return change


def documents(location: LakeLocation) -> list[str]:
    with Lake.open(location) as lake:
        assert [check.problem for check in verify(lake) if check.problem] == []
        assert [check.problem for check in verify_tables(lake) if check.problem] == []
        return sorted(lake.sql("SELECT DISTINCT doc_id FROM sequences")["doc_id"].to_pylist())


def ids(*names: str) -> list[str]:
    return sorted(map(document_id, names))


CHANGES = {
    "a statistic": {"mean_entropy": 9.0},
    "targets": {"input_ids": [9, 9, 9]},
    "the name of the source": {"source": "other.txt"},
    "the id of the document": {"doc_id": document_id("nobody")},
    "the number of the window": {"window_index": 7},
    "the unit": {"unit_id": "other"},
}


# One change within a document and one that takes a row out of it are quick.
_QUICK = ("a statistic", "the id of the document")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(values, id=name, marks=() if name in _QUICK else pytest.mark.slow)
        for name, values in CHANGES.items()
    ],
)
def test_one_damaged_row_costs_its_document_only(filled, location, values):
    path = shard_of(location, "a")
    change_rows(path, of("a", 1, **values))
    content = path.read_bytes()
    report = rebuilt(filled)
    assert documents(location) == ids("b", "c", "d")
    assert list(report.damaged) == [str(path)] and document_id("a") in report.damaged[str(path)]
    assert (report.n_lost_documents, report.n_documents, report.skipped) == (1, 3, {})
    age(location)
    with Lake.open(location, read_only=False) as lake:
        assert sweep(lake, grace=NOW).damaged_files == (str(path),)
    (copy,) = (location.data_directory / "damaged").iterdir()
    assert copy.read_bytes() == content


@pytest.mark.slow
def test_a_document_whose_every_row_has_another_id_is_missed(filled, location):
    path = shard_of(location, "a")
    change_rows(path, lambda row: row | {"doc_id": "x"} if row["doc_id"] == document_id("a") else row)
    report = rebuilt(filled)
    assert (documents(location), report.n_lost_documents) == (ids("b", "c", "d"), 1)
    assert document_id("a") in report.damaged[str(path)]


def test_a_document_that_is_intact_in_another_file_is_no_damage(filled, location):
    for merge in plan_compaction(filled, target_bytes=1 << 30):
        assert compact(filled, merge) is not None
    (merged,) = [path for path in shards(location) if path.name.startswith("merged-")]
    change_rows(merged, of("a", 0, mean_nll=7.0))
    report = rebuilt(filled)
    assert (documents(location), report.damaged) == (ids("a", "b", "c", "d"), {})
    assert "intact in other files" in report.skipped[str(merged)]


def test_a_torn_shard_is_kept_as_a_copy_by_the_sweep(filled, location):
    path = shard_of(location, "a")
    path.write_bytes(path.read_bytes()[:300])
    assert str(path) in rebuilt(filled).damaged
    age(location)
    with Lake.open(location, read_only=False) as lake:
        sweep(lake, grace=NOW)
    (copy,) = (location.data_directory / "damaged").iterdir()
    assert len(copy.read_bytes()) == 300 and documents(location) == ids("c", "d")


def test_whole_row_groups_of_a_torn_shard_are_taken(filled, location, monkeypatch):
    """A shard of four row groups, a document each, of which one can't be read."""
    monkeypatch.setattr("logitlake.storage.shards.writing._ROW_GROUP_TOKENS", 6)
    for merge in plan_compaction(filled, target_bytes=1 << 30):
        assert compact(filled, merge) is not None
    for path in shards(location):
        if not path.name.startswith("merged-"):
            path.unlink()
    (merged,) = shards(location)
    with pq.ParquetFile(merged) as file:
        columns = [file.metadata.row_group(2).column(n) for n in range(file.metadata.num_columns)]
        (lost,) = set(file.read_row_group(2)["doc_id"].to_pylist())
    content = bytearray(merged.read_bytes())
    for column in columns:
        begin = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
        content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    merged.write_bytes(content)
    report = rebuilt(filled)
    assert documents(location) == sorted(set(ids("a", "b", "c", "d")) - {lost})
    assert list(report.damaged) == [str(merged)] and lost in report.damaged[str(merged)]
    assert (report.n_lost_documents, report.n_shards) == (1, 1)


def test_a_sweep_that_can_not_copy_a_damaged_file_removes_nothing(filled, location):
    path = shard_of(location, "a")
    path.write_bytes(path.read_bytes()[:300])
    rebuilt(filled)
    age(location)
    before = sorted(location.data_directory.rglob("*.parquet"))
    (location.data_directory / "damaged").write_bytes(b"a file where the folder of the copies should be")
    with Lake.open(location, read_only=False) as lake:
        n_snapshots = holdings(lake).n_snapshots
        with pytest.raises((OSError, LakeError)):
            sweep(lake, grace=NOW)
        assert holdings(lake).n_snapshots == n_snapshots > 1
    assert sorted(location.data_directory.rglob("*.parquet")) == before


def test_what_a_killed_copy_of_a_damaged_file_left_is_swept(filled, location):
    """The name is that of an unfinished write of `put_bytes`."""
    folder = location.data_directory / "damaged"
    folder.mkdir()
    staged = folder / "store__sequences__a.parquet.damaged.12345.tmp"
    staged.write_bytes(b"half")
    age(location)
    os.utime(staged, (0, 0))
    with Lake.open(location, read_only=False) as lake:
        assert sweep(lake, grace=NOW).staged_files == (str(staged),)
    assert not staged.exists()


def test_a_torn_page_of_a_small_table_is_named_and_the_others_are_taken(full_lake, location):
    """One file of every table: the footer can be read, a page can't."""
    before = documents(location)
    torn = [
        str(min(location.data_directory.glob(f"store/{name}/*.parquet")))
        for name, table in TABLES.items()
        if table.rebuild is Rebuild.FROM_FILES
    ]
    for path in map(Path, torn):
        content = bytearray(path.read_bytes())
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        content[4:end] = b"\xff" * (end - 4)
        path.write_bytes(content)
    assert sorted(rebuilt(full_lake).damaged) == sorted(torn)
    assert documents(location) == before


def test_a_damaged_copy_of_a_row_does_not_cost_the_good_one(full_lake, location, damage):
    """Two files hold the row, one with a wrong hash: whichever is larger, the right one is taken."""
    before = sorted(full_lake.sql("SELECT * FROM store.promotions").to_pylist(), key=repr)
    (path,) = location.data_directory.glob("store/promotions/*.parquet")
    for number, wrong in enumerate((0, (1 << 64) - 1)):
        copy = path.with_name(f"{number}-{path.name}")
        copy.write_bytes(path.read_bytes())
        change_rows(copy, lambda row, wrong=wrong: row | {ROW_HASH: wrong})
    report = rebuilt(full_lake)
    assert len(report.damaged) == 2 and all("does not match its hash" in reason for reason in report.damaged.values())
    with Lake.open(location) as lake:
        assert sorted(lake.sql("SELECT * FROM store.promotions").to_pylist(), key=repr) == before


@pytest.mark.slow
def test_a_row_without_a_hash_and_its_copy_with_one_are_one_row(full_lake, location):
    (path,) = location.data_directory.glob("store/promotions/*.parquet")
    copy = path.with_name(f"0-{path.name}")
    copy.write_bytes(path.read_bytes())
    change_rows(copy, lambda row: row | {ROW_HASH: None})
    assert rebuilt(full_lake).damaged == {}
    with Lake.open(location) as lake:
        assert lake.row("SELECT count(*) AS n FROM store.promotions")["n"] == 1


def test_a_damaged_tombstone_is_named_and_its_document_stays_forgotten(filled, location):
    forget(filled, [document_id("a")], reason="asked")
    tombstone = location.data_directory / "tombstones" / f"{document_id('a')}.json"
    tombstone.write_bytes(b"{")
    for path in location.data_directory.glob("store/tombstones/*.parquet"):
        path.unlink()
    assert list(rebuilt(filled).damaged) == [str(tombstone)]
    assert documents(location) == ids("b", "c", "d")
    with Lake.open(location, read_only=False) as lake:
        held = lake.sql("SELECT DISTINCT doc_id FROM store.document_sources")["doc_id"].to_pylist()
        assert sorted(held) == ids("b", "c", "d")
        # The rebuild has made the row of the tombstone again.
        assert forget_again(lake) == ()
        assert lake.sql("SELECT doc_id FROM forgotten")["doc_id"].to_pylist() == [document_id("a")]


@pytest.mark.parametrize("content", BROKEN)
def test_no_content_of_a_note_stops_the_reading_of_the_others(location, content):
    """Notes of every kind, one broken and one intact."""
    doc_ids, recipe = [document_id("a"), document_id("b")], {"teacher": "tiny"}
    write_note(location, f"tombstones/{doc_ids[0]}.json", {"doc_id": doc_ids[0]})
    write_note(location, f"recipes/{id_of_recipe(recipe)}.json", recipe)
    write_note(location, "lake-copy.json", {"format_version": 2, "held_out_salt": "s", "held_out_share": "0.1"})
    for name in (f"tombstones/{doc_ids[1]}.json", f"recipes/{'0' * 32}.json", "lake.json"):
        put_bytes(location, name, content)
    damage: dict[str, str] = {}
    assert forgotten_documents(location, damage) == set(doc_ids)
    assert list(noted_recipes(location, damage)) == [id_of_recipe(recipe)]
    assert read_settings(location, damage)["held_out_salt"] == "s"
    assert len(damage) == 3


@pytest.mark.slow
def test_a_document_whose_tombstone_file_is_gone_stays_forgotten_by_the_table(filled, location):
    forget(filled, [document_id("a")], reason="asked")
    for path in location.data_directory.glob("tombstones/*.json"):
        path.unlink()
    rebuilt(filled)
    assert documents(location) == ids("b", "c", "d")


@pytest.mark.parametrize("name", ["lake.json", pytest.param("lake-copy.json", marks=pytest.mark.slow)])
def test_a_damaged_lake_note_is_made_again_from_its_copy(filled, location, name):
    note, content = location.data_directory / name, b'{"format_version": 2}'
    before = note.read_bytes()
    note.write_bytes(content)
    assert list(rebuilt(filled).damaged) == [str(note)]
    assert note.read_bytes() == before
    assert [copy.read_bytes() for copy in location.data_directory.glob("damaged/*")] == [content]
    assert documents(location) == ids("a", "b", "c", "d")


@pytest.mark.slow
def test_a_lake_note_that_is_gone_is_made_again(filled, location):
    note = location.data_directory / "lake.json"
    before = note.read_bytes()
    note.unlink()
    assert rebuilt(filled).damaged == {}
    assert note.read_bytes() == before


def test_settings_that_nothing_tells_are_asked_for(filled, location):
    for note in location.data_directory.glob("lake*.json"):
        note.write_bytes(b"{")
    with pytest.raises(LakeError, match=r"lake\.json: expected a JSON object with .*held_out_salt.*restore it"):
        rebuilt(filled)
    assert not location.catalog_file.exists()


def test_a_damaged_recipe_note_is_named_and_the_recipe_taken_from_a_shard(filled, location, recipe):
    note = location.data_directory / "recipes" / f"{id_of_recipe(recipe)}.json"
    note.write_bytes(b'{"teacher": "another"}')
    for path in location.data_directory.glob("store/recipes/*.parquet"):
        path.unlink()
    assert list(rebuilt(filled).damaged) == [str(note)]
    assert documents(location) == ids("a", "b", "c", "d")
    with Lake.open(location) as lake:
        assert json.loads(lake.row("SELECT recipe FROM store.recipes")["recipe"]) == recipe


def test_a_second_rebuild_at_the_same_time_is_refused(filled, location, monkeypatch):
    def ask(done: int, total: int) -> None:
        with pytest.raises(LakeError, match="another rebuild is running"):
            rebuild(location)

    filled.close()
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    assert rebuild(location, on_shard=ask).n_documents == 4


def test_the_journal_of_an_old_catalog_is_not_taken_for_the_new_ones(filled, location):
    filled.close()
    location.catalog_file.unlink()
    journal = location.catalog_file.with_name("catalog.sqlite-wal")
    journal.write_bytes(b"old")
    with pytest.raises(LakeError, match="move it away"):
        rebuild(location)
    assert journal.read_bytes() == b"old"
