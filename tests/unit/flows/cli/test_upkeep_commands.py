"""forget, retire, promote, rollback, export and lineage from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.reports import CaptureReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.promotions import student_of
from logitlake.storage.students.registry import register_student
from logitlake.storage.writing.runs import note_run


@pytest.fixture
def students(config: Config, captured: CaptureReport) -> list[str]:
    """A student of all rows, and its child, which saw some of them."""
    names = ["a" * 32, "b" * 32]
    with Lake.open(location_of(config), read_only=False) as lake:
        for name, parent, where in ((names[0], "model", None), (names[1], names[0], "n_tokens > 15")):
            rows = resolve_row_set(lake, recipe_id=captured.recipe_id, where=where)
            register_row_set(lake, rows)
            register_student(
                lake,
                student_id=name,
                parent_id=parent,
                row_set_id=rows.row_set_id,
                run_id="run",
                directory=f"/students/{name}",
                settings={},
                metrics={},
            )
    return names


def as_json(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def a_document(config: Config) -> str:
    with Lake.open(location_of(config)) as lake:
        query = "SELECT doc_id FROM documents WHERE NOT held_out AND n_tokens > 15 ORDER BY doc_id LIMIT 1"
        return str(lake.row(query)["doc_id"])


def test_an_alias_goes_forward_by_promote_and_back_by_rollback(
    cli: Any, config: Config, config_file: Path, students: list[str]
) -> None:
    end = ("--config", config_file, "--format", "json")
    assert as_json(cli("promote", students[0][:6], *end)) == {"alias": "current", "before": None, "now": students[0]}
    assert as_json(cli("promote", students[1][:6], *end))["before"] == students[0]
    back = {"alias": "current", "before": students[1], "now": students[0]}
    assert as_json(cli("rollback", *end)) == back
    assert as_json(cli("rollback", "--from", students[1][:6], *end)) == back, "asked again, it goes back once"
    with Lake.open(location_of(config)) as lake:
        assert student_of(lake) == students[0]
    refused = cli("rollback", "--config", config_file)
    assert (refused.exit_code, "no student before" in refused.stderr) == (5, True)
    assert len(as_json(cli("show", "promotions", *end))) == 3


def test_a_student_that_does_not_exist_is_not_promoted(cli: Any, config_file: Path, students: list[str]) -> None:
    result = cli("promote", "f" * 8, "--config", config_file)
    assert (result.exit_code, "show students" in result.stderr) == (5, True)


def test_lineage_is_a_tree_for_people_and_the_same_rows_for_programs(
    cli: Any, config_file: Path, students: list[str], captured: CaptureReport
) -> None:
    assert cli("promote", students[1], "--config", config_file).exit_code == 0
    tree = cli("show", "lineage", "current", "--config", config_file).stdout
    assert tree.index(students[1]) < tree.index("filter n_tokens > 15") < tree.index(students[0])
    assert captured.recipe_id in tree and "promoted (current)" in tree
    rows = as_json(cli("show", "lineage", students[1], "--config", config_file, "--format", "json"))
    assert [row["ancestor_id"] for row in rows] == [students[1], students[0]]
    query = f"SELECT ancestor_id FROM lineage WHERE student_id = '{students[1]}' ORDER BY depth"
    asked = as_json(cli("sql", query, "--config", config_file, "--format", "json"))
    assert [row["ancestor_id"] for row in asked] == [row["ancestor_id"] for row in rows]


def test_forgetting_says_first_and_does_then(cli: Any, config: Config, config_file: Path, students: list[str]) -> None:
    doc_id = a_document(config)
    end = ("--config", config_file, "--format", "json")
    said = as_json(cli("forget", doc_id, "--dry-run", *end))
    assert a_document(config) == doc_id
    done = as_json(cli("forget", doc_id, "--reason", "her right", *end))
    assert said["student_ids"] == done["student_ids"] == students
    assert a_document(config) != doc_id
    assert as_json(cli("sql", "SELECT reason FROM forgotten", *end)) == [{"reason": "her right"}]


@pytest.mark.parametrize("arguments", [(), ("--source", "a", "--where", "true"), ("not-an-id",)])
def test_forgetting_asks_for_one_way_of_naming_documents(
    cli: Any, config_file: Path, captured: CaptureReport, arguments: tuple[str, ...]
) -> None:
    assert cli("forget", *arguments, "--config", config_file).exit_code == 2


def test_a_condition_that_does_more_than_ask_is_refused_and_changes_nothing(
    cli: Any, config: Config, config_file: Path, captured: CaptureReport
) -> None:
    doc_id = a_document(config)
    for where in ("false); DELETE FROM store.documents; SELECT doc_id FROM documents WHERE (false", "nope = 1"):
        result = cli("forget", "--dry-run", "--where", where, "--config", config_file)
        assert result.exit_code == 2, result.stderr
    assert a_document(config) == doc_id
    result = cli("forget", "--dry-run", "--where", "true -- all of them", "--config", config_file)
    assert (result.exit_code, "documents" in result.stdout) == (0, True)


def test_a_document_is_forgotten_by_the_beginning_of_its_id(
    cli: Any, config: Config, config_file: Path, captured: CaptureReport
) -> None:
    doc_id = a_document(config)
    end = ("--dry-run", "--config", config_file, "--format", "json")
    assert as_json(cli("forget", doc_id[:12], *end))["doc_ids"] == [doc_id]
    assert cli("forget", "abcdefabcdef", *end).exit_code == 2
    absent = cli("forget", "0" * 32, *end)
    assert (as_json(absent)["doc_ids"], "not in the lake" in absent.stderr) == (["0" * 32], True)


@pytest.mark.parametrize("command", [("report", "--output"), ("export",)])
def test_an_output_that_can_not_be_written_is_named_in_one_sentence(
    cli: Any, tmp_path: Path, config_file: Path, captured: CaptureReport, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("a file is no folder")
    result = cli(*command, tmp_path / "file" / "out", "--config", config_file)
    assert (result.exit_code, str(tmp_path / "file") in result.stderr) == (2, True), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_forgetting_nothing_is_an_error(cli: Any, config_file: Path, captured: CaptureReport) -> None:
    result = cli("forget", "--source", "test/no-such-file", "--config", config_file)
    assert (result.exit_code, "nothing was forgotten" in result.stderr) == (5, True)


def test_retiring_says_first_and_does_then(cli: Any, config_file: Path, captured: CaptureReport) -> None:
    end = ("--config", config_file, "--format", "json")
    said = as_json(cli("retire", captured.recipe_id[:8], *end))
    assert said["retired"] is False and said["n_sequences"] > 0
    assert as_json(cli("retire", captured.recipe_id[:8], "--yes", *end)) == {**said, "retired": True}
    assert as_json(cli("sql", "SELECT count(*) AS n FROM sequences", *end)) == [{"n": 0}]


def test_an_export_is_a_data_set_with_its_lineage(
    cli: Any, config: Config, config_file: Path, students: list[str], tmp_path: Path
) -> None:
    from datasets import load_dataset

    end = ("--config", config_file, "--format", "json")
    done = as_json(cli("export", tmp_path / "rows", "--student", students[1], *end))
    loaded = load_dataset(str(tmp_path / "rows"), split="train", cache_dir=str(tmp_path / "cache"))
    with Lake.open(location_of(config)) as lake:
        wanted = lake.sql(
            "SELECT doc_id, target_ids FROM sequences WHERE n_tokens > 15 AND NOT held_out ORDER BY unit_id, doc_id"
        ).to_pylist()
    assert [(row["doc_id"], row["target_ids"]) for row in loaded] == [(r["doc_id"], r["target_ids"]) for r in wanted]
    note = json.loads((tmp_path / "rows" / "lineage.json").read_text())
    assert (note["row_set_id"], note["where"]) == (done["row_set_id"], "n_tokens > 15")
    assert list(note["recipes"]) == note["recipe_ids"]


def test_an_export_reports_what_was_forgotten_since(
    cli: Any, config: Config, config_file: Path, students: list[str], tmp_path: Path
) -> None:
    end = ("--config", config_file, "--format", "json")
    before = as_json(cli("export", tmp_path / "before", "--student", students[1], *end))
    assert cli("forget", a_document(config), *end).exit_code == 0
    after = as_json(cli("export", tmp_path / "after", "--student", students[1], *end))
    assert (before["n_missing"], after["n_missing"]) == (0, 1)
    assert after["n_sequences"] == before["n_sequences"] - 1


def test_an_export_never_overwrites(cli: Any, config_file: Path, captured: CaptureReport, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert cli("export", tmp_path / "full", "--config", config_file).exit_code == 2
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_upkeep_can_be_asked_what_it_would_do(cli: Any, config_file: Path, captured: CaptureReport) -> None:
    said = as_json(cli("maintain", "--dry-run", "--config", config_file, "--format", "json"))
    assert said["dry_run"] and said["files_merged"] == captured.n_units


def test_commands_that_write_refuse_an_older_catalog_and_commands_that_read_warn(
    cli: Any, config: Config, config_file: Path, captured: CaptureReport, tmp_path: Path
) -> None:
    location = location_of(config)
    assert location.catalog_file is not None
    backup = shutil.copy(location.catalog_file, tmp_path / "backup.sqlite")
    with Lake.open(location, read_only=False) as lake:
        note_run(lake, captured.run_id, "finished", kind="capture", recipe_id=None)
    shutil.copy(backup, location.catalog_file)
    end = ("--config", config_file)
    for command in (("capture",), ("forget", "0" * 32), ("maintain", "--dry-run"), ("verify",)):
        result = cli(*command, *end)
        assert (result.exit_code, "older copy" in result.stderr) == (7, True), (command, result.stderr)
    for command in (("plan",), ("show",), ("sql", "SELECT 1 AS one", "--format", "csv")):
        result = cli(*command, *end)
        assert (result.exit_code, "older copy" in result.stderr) == (0, True), (command, result.stderr)
        assert "older copy" not in result.stdout
