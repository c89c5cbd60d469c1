"""A lake copied from a directory to PostgreSQL and a bucket, and back: the same rows, nothing that was forgotten."""

import json
import subprocess
import sys

import orjson
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import list_paths, read_all
from logitlake.storage.copying.copy import copy_lake
from logitlake.storage.errors import LakeError
from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe
from tests.integration.test_catalogs import RECIPE, _rows

pytestmark = pytest.mark.slow


def _content(location: LakeLocation) -> dict[str, list[str]]:
    with Lake.open(location) as lake:
        assert [check.problem for check in (*verify(lake), *verify_tables(lake)) if check.problem] == []
        return {name: sorted(map(str, lake.sql(f"FROM store.{name}").to_pylist())) for name in TABLES}


def test_a_lake_goes_from_a_directory_to_servers_and_back(tmp_path, postgres, s3_data):
    source = LakeLocation.resolve(tmp_path / "lake")
    servers = LakeLocation.resolve(tmp_path / "none", postgres, s3_data)
    back = LakeLocation.resolve(tmp_path / "back")
    with Lake.create(source, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        commit_unit(lake, _rows("a", "b"), recipe=RECIPE, run_id="run", seconds=1.0)
    first = copy_lake(source, servers)
    assert _content(servers) == _content(source)
    with Lake.open(source, read_only=False) as lake:
        commit_unit(lake, _rows("c"), recipe=RECIPE, run_id="run", seconds=1.0)
        forget(lake, [document_id("a")], reason="asked")
    second = copy_lake(source, servers)
    assert 0 < second.n_files < second.n_files_in_all
    assert first.n_files == first.n_files_in_all
    assert _content(servers) == _content(source)
    named = {path.removeprefix(servers.data) for path in list_paths(servers, "store/**/*.parquet")}
    assert len(named) == second.n_files_in_all
    copy_lake(servers, back)
    assert _content(back) == _content(source)

    # The copy is a lake like any other: it takes commits, and is not overwritten then.
    with Lake.open(servers, read_only=False) as lake:
        assert commit_unit(lake, _rows("d"), recipe=RECIPE, run_id="run", seconds=1.0).n_documents == 1
    mine = _content(servers)
    with pytest.raises(LakeError, match="commits of its own"):
        copy_lake(source, servers)
    assert _content(servers) == mine


def test_the_command_takes_a_settings_file_and_no_secret_comes_into_the_copy(tmp_path, postgres, s3_data, monkeypatch):
    source = LakeLocation.resolve(tmp_path / "lake")
    with Lake.create(source, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        commit_unit(lake, _rows("a"), recipe=RECIPE, run_id="run", seconds=1.0)
    secret = "planted-password"
    settings = {"lake": {"path": str(tmp_path / "none"), "catalog": f"{postgres} password={secret}", "data": s3_data}}
    (tmp_path / "servers.yaml").write_bytes(orjson.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "logitlake",
        "copy",
        str(tmp_path / "servers.yaml"),
        "--lake",
        str(tmp_path / "lake"),
    ]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_files"] > 0
    servers = LakeLocation.resolve(tmp_path / "none", postgres, s3_data)
    assert _content(servers) == _content(source)
    copied = b"".join(read_all(servers, "**").values())
    for text in (secret, "logitlake-secret"):
        assert text not in done.stdout + done.stderr
        assert text.encode() not in copied
