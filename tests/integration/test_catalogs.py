"""The same lake on a PostgreSQL catalog and an S3 bucket: same code, same promises."""

import json
import os
import subprocess
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.questions import COMMAND_LINE
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import list_paths, put_bytes, read_all
from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.last_commit import note_commit
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.row_set import fetch, resolve_row_set
from logitlake.storage.schema.sequences import FORMAT_VERSION, SEQUENCES
from logitlake.storage.sql.client_setup import client_lines
from logitlake.storage.sql.session import ReadSession, query
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run
from tests.integration.old_lake import old_lake_on

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "teacher": {"name": "tiny"},
    "tokenizer": "t",
    "sparsifier": {"name": "varopt"},
    "temperature": 1.0,
}


def _rows(*names: str) -> pa.Table:
    shared = {
        "recipe_id": recipe_id(RECIPE),
        "unit_id": "",
        "corpus": "c",
        "window_index": 0,
        "start": 0,
        "n_tokens": 2,
    }
    shared |= {"n_targets": 1, "levels": 64, "input_ids": [1, 2], "target_ids": [[2, 3], []], "head_codes": [[60], []]}
    shared |= {"entropy_codes": [1, None], "nll_codes": [1, None], "mean_entropy": 0.1, "mean_nll": 0.1, "checksum": ""}
    return pa.Table.from_pylist([{**shared, "doc_id": document_id(name), "source": name} for name in names], SEQUENCES)


def _location(tmp_path: Path, catalog: str | None, data: str | None) -> LakeLocation:
    return LakeLocation.resolve(tmp_path / "lake", catalog, data)


def _round_trip(location: LakeLocation) -> None:
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        commit_unit(lake, _rows("a", "b"), recipe=RECIPE, run_id="run", seconds=1.0)
        assert commit_unit(lake, _rows("b", "c"), recipe=RECIPE, run_id="run", seconds=1.0).n_documents == 1
        row_set = resolve_row_set(lake, recipe_id=recipe_id(RECIPE))
        assert fetch(lake, row_set, row_set.units["unit_id"].to_pylist(), ["doc_id"]).num_rows == 3
        assert [check.problem for check in verify(lake)] == ["", ""]
    assert query(location, "SELECT count(*) AS n FROM targets")["n"].to_pylist() == [6]


def test_an_embedded_catalog_with_data_in_a_bucket(tmp_path, s3_data):
    _round_trip(_location(tmp_path, None, s3_data))


def test_a_lake_in_a_bucket_has_its_note_and_can_be_rebuilt_from_the_bucket_alone(tmp_path, s3_data):
    location = _location(tmp_path, None, s3_data)
    assert list_paths(location, "lake.json") == []
    _round_trip(location)
    (note,) = read_all(location, "lake.json").values()
    assert json.loads(note)["format_version"] == FORMAT_VERSION
    for file in location.state_directory.glob("catalog.sqlite*"):
        file.unlink()
    assert rebuild(location).n_documents == 3


def test_a_server_catalog_with_data_in_a_bucket(tmp_path, postgres, s3_data):
    _round_trip(_location(tmp_path, postgres, s3_data))


def test_the_command_line_sees_a_server_catalog_with_data_in_a_bucket_and_no_secret_is_printed(
    tmp_path, postgres, s3_data
):
    location = _location(tmp_path, f"{postgres} password='top secret'", s3_data)
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        commit_unit(lake, _rows("a", "b"), recipe=RECIPE, run_id="run", seconds=1.0)
    lines = "\n".join(client_lines(location))
    for secret in ("top secret", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in lines
    command = [str(COMMAND_LINE), "-no-init", "-bail", "-csv"]
    asked = f"{lines}\nSELECT count(*) AS n FROM positions;"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["n", "2"]
    with ReadSession(location, as_of=0) as session:
        assert session.ask("SELECT count(*) AS n FROM positions").to_pylist() == [{"n": 0}]


def test_what_was_forgotten_leaves_a_server_lake_at_once(tmp_path, postgres):
    """The server keeps real times: a file that expires now is younger than any bound that was taken before."""
    location = _location(tmp_path, postgres, str(tmp_path / "data"))
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        commit_unit(lake, _rows("a", "b"), recipe=RECIPE, run_id="run", seconds=1.0)
        forget(lake, [document_id("a")], reason="asked")
        for merge in plan_compaction(lake, target_bytes=10**9):
            assert compact(lake, merge)
        kept = sweep(lake, grace=timedelta(hours=24))
        swept = sweep(lake, grace=timedelta(hours=24), forget_at_once=True)
        assert (len(kept.expired_files), bool(swept.expired_files)) == (0, True)
        assert [check.problem for check in verify(lake)] == [""]
        (shard,) = Path(location.data, "store", "sequences").rglob("*.parquet")
        assert pq.read_table(shard, columns=["doc_id"], partitioning=None).num_rows == 1


def test_writers_on_a_server_catalog_store_every_document_once(tmp_path, postgres):
    """No file lock here: they meet at the guard row, and the loser looks again."""
    location = _location(tmp_path, postgres, str(tmp_path / "data"))
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            with Lake.open(location, read_only=False) as mine:
                for unit in range(first, first + 6):
                    names = [f"document {number}" for number in (unit, unit + 1)]
                    commit_unit(mine, _rows(*names), recipe=RECIPE, run_id="run", seconds=1.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with Lake.open(location) as lake:
        counts = lake.sql("SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM sequences").to_pylist()[0]
        numbers = lake.sql("SELECT commit_number FROM commits")["commit_number"].to_pylist()
    assert counts == {"n": 11, "d": 11}
    assert len(set(numbers)) == len(numbers)


def test_writers_that_overtake_each_other_on_a_server_lose_no_event_and_store_a_vocabulary_once(tmp_path, postgres):
    location = _location(tmp_path, postgres, str(tmp_path / "data"))
    Lake.create(location, held_out_salt="s", held_out_share=0.0).close()
    begin, errors = threading.Barrier(3), []

    def work(name: str) -> None:
        try:
            with Lake.open(location, read_only=False) as mine:
                begin.wait()
                register_vocabulary(mine, "t", ["a", "b", "c"], set())
                for number in range(6):
                    note_run(mine, f"{name}-{number}", "finished", kind="capture", recipe_id=None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with Lake.open(location) as lake:
        assert lake.row("SELECT count(*) AS n FROM store.run_events")["n"] == 18
        assert lake.row("SELECT count(*) AS n FROM store.vocabulary")["n"] == 3


def test_a_rebuild_on_a_server_that_was_stopped_is_refused_until_it_is_run_again(
    tmp_path, postgres, s3_data, monkeypatch
):
    _round_trip(_location(tmp_path, None, s3_data))
    location = _location(tmp_path, postgres, s3_data)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("logitlake.storage.rebuild.catalog._finish", stop)
        rebuild(location)
    for read_only in (True, False):
        with pytest.raises(LakeError, match="run `logitlake rebuild` again"):
            Lake.open(location, read_only=read_only)
    with pytest.raises(LakeError, match="run `logitlake rebuild` again"):
        Lake.create(location, held_out_salt="s", held_out_share=0.0)
    assert rebuild(location).n_documents == 3
    with pytest.raises(LakeError, match="holds a lake already"):
        rebuild(location)
    with Lake.open(location) as lake:
        assert [check.problem for check in verify(lake)] == ["", ""]
        assert examine(lake, unknown_files(lake)).missing == []


def test_a_damaged_orphan_in_a_bucket_is_kept_as_a_copy(tmp_path, s3_data, monkeypatch):
    location = _location(tmp_path, None, s3_data)
    _round_trip(location)
    path = put_bytes(location, "store/sequences/recipe_id=x/torn.parquet", b"torn")
    # A bucket gives no way to make an object older.
    monkeypatch.setattr("logitlake.storage.upkeep.sweeping._WRITERS_TIME", timedelta(0))
    with Lake.open(location, read_only=False) as lake:
        assert sweep(lake, grace=timedelta(0)).damaged_files == (path,)
    assert list(read_all(location, "damaged/*").values()) == [b"torn"]
    assert path not in list_paths(location, "store/**/*.parquet")


def test_a_name_that_is_not_in_a_bucket_is_not_listed(tmp_path, s3_data):
    location = _location(tmp_path, None, s3_data)
    path = put_bytes(location, "lake.json", b"{}")
    assert list_paths(location, "lake.json") == [path]
    assert list_paths(location, "lake") == list_paths(location, "nothing.json") == []


def _create_at_once(location: LakeLocation, n_writers: int = 4) -> list[BaseException]:
    """Open the lake for writing in several threads at the same moment; returns what they raised."""
    begin, errors = threading.Barrier(n_writers), []

    def work() -> None:
        try:
            begin.wait()
            Lake.create(location, held_out_salt="s", held_out_share=0.0).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_captures_that_make_a_lake_on_a_server_at_once_make_one(tmp_path, postgres):
    location = _location(tmp_path, postgres, str(tmp_path / "data"))
    assert _create_at_once(location) == []
    with Lake.open(location) as lake:
        assert lake.sql("SELECT commit_number FROM store.guard")["commit_number"].to_pylist() == [0]
        assert lake.row("SELECT count(*) AS n FROM store.lake_settings WHERE name = 'held_out_salt'")["n"] == 1


def test_captures_that_open_an_old_lake_on_a_server_at_once_migrate_it_once(tmp_path, postgres):
    location = old_lake_on(postgres, tmp_path / "lake")
    with Lake.open(location) as lake:
        before = lake.sql("SELECT doc_id, recipe_id FROM documents ORDER BY ALL")
    assert _create_at_once(location) == []
    with Lake.open(location) as lake:
        assert lake.database == "lake", "tables and views are those of today"
        assert lake.sql("SELECT format_version FROM store.guard")["format_version"].to_pylist() == [FORMAT_VERSION]
        assert lake.sql("SELECT doc_id, recipe_id FROM documents ORDER BY ALL") == before


def test_a_small_table_that_another_writer_changes_while_it_is_merged_is_put_off(tmp_path, postgres, monkeypatch):
    location = _location(tmp_path, postgres, str(tmp_path / "data"))
    _round_trip(location)
    with Lake.open(location, read_only=False) as lake, Lake.open(location, read_only=False) as other:

        def forget_after_the_merge(query: str) -> pa.Table:
            answer = Lake.sql(lake, query)
            if "merge_adjacent_files" in query and "'documents'" in query:
                forget(other, [document_id("a")], reason="asked")
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(lake, "sql", forget_after_the_merge)
            assert merge_small_tables(lake) == ["documents"]
        assert [check.problem for check in verify_tables(lake) if check.problem] == []
        assert merge_small_tables(lake) == []
        files = lake.sql("FROM ducklake_list_files('lake', 'documents', schema => 'store')")
        assert files["delete_file"].to_pylist() == [None]
        assert sorted(lake.sql("SELECT doc_id FROM documents")["doc_id"].to_pylist()) == sorted(
            map(document_id, ("b", "c"))
        )


def test_an_older_catalog_on_a_server_with_data_in_a_bucket_is_noticed(tmp_path, postgres, s3_data, caplog):
    location = _location(tmp_path, postgres, s3_data)
    _round_trip(location)
    Lake.open(location).close()
    assert caplog.messages == []
    with Lake.open(location, read_only=False) as lake:
        note_commit(lake.connection, location, lake.commit_number + 1)
    with pytest.raises(IntegrityError, match="1 commit that the catalog"):
        Lake.open(location, read_only=False)
    Lake.open(location).close()
    assert "older copy" in caplog.messages[0]
