"""The command line's contract: results on stdout, words on stderr, exit codes that scripts can trust."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake

HEAVY = ("torch", "transformers", "prefect", "datasets")


def test_results_are_json_csv_or_a_table_and_nothing_else_is_on_stdout(cli: Any, filled: Any) -> None:
    call = ("sql", "SELECT doc_id, n_tokens FROM documents ORDER BY doc_id", "--config", filled.config_file)
    as_json = json.loads(cli(*call, "--format", "json").stdout)
    as_csv = list(csv.DictReader(io.StringIO(cli(*call, "--format", "csv").stdout)))
    table = cli(*call).stdout
    assert len(as_json) == 30
    assert [row["doc_id"] for row in as_json] == [row["doc_id"] for row in as_csv]
    assert all(row["doc_id"] in table for row in as_json)


def test_an_unknown_setting_is_named_and_ends_with_2(cli: Any) -> None:
    result = cli("plan", "--set", "teacher.mdoel=x")
    assert result.exit_code == 2
    assert "mdoel" in result.stderr
    assert "did you mean model?" in result.stderr
    assert result.stdout == ""


def test_an_unknown_option_ends_with_2(cli: Any) -> None:
    assert cli("plan", "--no-such-option").exit_code == 2


@pytest.mark.parametrize("command", [("plan",), ("capture",)])
def test_without_a_teacher_or_a_corpus_a_command_says_which_setting_to_give(cli: Any, command: tuple[str]) -> None:
    result = cli(*command)
    assert result.exit_code == 2
    assert "teacher.model" in result.stderr


def test_without_a_student_train_says_what_to_set(cli: Any) -> None:
    result = cli("train")
    assert result.exit_code == 2
    assert "student.layers" in result.stderr


def test_a_missing_lake_ends_with_5_and_says_how_to_make_one(cli: Any) -> None:
    for command in (("show", "runs"), ("sql", "SELECT 1"), ("verify",)):
        result = cli(*command)
        assert (result.exit_code, "logitlake capture" in result.stderr) == (5, True), command


def test_an_unreadable_corpus_ends_with_3(cli: Any, config_file: Path) -> None:
    result = cli("plan", "--config", config_file, "--set", "corpora.test.path=/no/such/file")
    assert result.exit_code == 3
    assert "/no/such/file" in result.stderr


def test_a_missing_teacher_says_what_was_tried(cli: Any, config_file: Path) -> None:
    result = cli("plan", "--config", config_file, "--set", "teacher.model=/no/such/teacher")
    assert result.exit_code == 2
    assert "/no/such/teacher" in result.stderr


def test_errors_come_without_a_traceback_unless_asked_for(cli: Any) -> None:
    assert "Traceback" not in cli("show", "runs").stderr
    assert "Traceback" in cli("show", "runs", "--debug").stderr


def test_a_write_is_refused_as_a_query_with_2(cli: Any, filled: Any) -> None:
    result = cli("sql", "DELETE FROM sequences", "--config", filled.config_file)
    assert result.exit_code == 2
    assert "SELECT" in result.stderr


def test_a_query_comes_from_a_file_or_from_standard_input(cli: Any, filled: Any, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 41 + 1 AS answer")
    result = cli("sql", "--file", tmp_path / "q.sql", "--config", filled.config_file, "--format", "json")
    assert json.loads(result.stdout) == [{"answer": 42}]
    assert cli("sql", "--config", filled.config_file).exit_code == 2


def test_flags_win_over_set_and_set_wins_over_the_file(cli: Any, config_file: Path) -> None:
    call = ("show", "config", "--config", config_file, "--format", "json", "--set", "lake.path=from-set")
    assert json.loads(cli(*call).stdout)["lake"]["path"] == "from-set"
    assert json.loads(cli(*call, "--lake", "from-flag").stdout)["lake"]["path"] == "from-flag"


def test_the_settings_file_of_the_current_directory_is_used(cli: Any, config_file: Path, tmp_path: Path) -> None:
    assert config_file == tmp_path / "logitlake.yaml"
    shown = json.loads(cli("show", "config", "--format", "json").stdout)
    assert shown["tokenization"]["window"] == 32


def test_plan_counts_what_a_capture_would_compute_and_says_where_estimates_come_from(
    cli: Any, config_file: Path, filled: Any
) -> None:
    fresh = json.loads(cli("plan", "--config", config_file, "--format", "json").stdout)
    assert fresh["documents_new"] == filled.report.n_documents
    assert fresh["tokens"] == filled.report.n_tokens
    assert fresh["targets"] == filled.report.n_targets
    assert fresh["units"] == filled.report.n_units
    assert "assumed" in fresh["tokens_per_second_from"]
    assert not (config_file.parent / "lake").exists(), "a plan makes no lake"
    priced = cli(
        *("plan", "--config", config_file, "--format", "json"),
        *("--tokens-per-second", "100", "--price-per-hour", "3.5"),
    )
    again = json.loads(priced.stdout)
    assert again["cost"] == pytest.approx(again["tokens"] / 100 / 3600 * 3.5)


def test_plan_of_a_full_lake_finds_nothing_new_and_measures_instead_of_assuming(cli: Any, filled: Any) -> None:
    plan = json.loads(cli("plan", "--config", filled.config_file, "--format", "json").stdout)
    assert (plan["documents_new"], plan["tokens"], plan["hours"]) == (0, 0, 0)
    assert "measured" in plan["tokens_per_second_from"]
    assert "measured" in plan["bytes_per_token_from"]


def test_a_cap_shows_in_the_plan(cli: Any, config_file: Path) -> None:
    plan = json.loads(cli("plan", "--config", config_file, "--format", "json", "--max-tokens", "200").stdout)
    assert plan["tokens"] <= 200
    assert "max_tokens 200" in plan["ends"]


@pytest.mark.parametrize("what", ["recipes", "runs", "commits", "documents", "rejects", "row-sets", "students"])
def test_every_list_is_json_csv_and_table(cli: Any, filled: Any, what: str) -> None:
    call = ("show", what, "--config", filled.config_file)
    rows = json.loads(cli(*call, "--format", "json").stdout)
    header = cli(*call, "--format", "csv").stdout.splitlines()[0].split(",")
    assert len(header) > 3
    assert all(list(row) == header for row in rows)
    assert cli(*call).exit_code == 0


def test_a_long_list_is_cut_and_says_so(cli: Any, filled: Any) -> None:
    result = cli("show", "documents", "--config", filled.config_file, "--limit", "7", "--format", "json")
    assert len(json.loads(result.stdout)) == 7
    assert "23 more" in result.stderr


def test_a_recipe_is_shown_by_the_beginning_of_its_id(cli: Any, filled: Any) -> None:
    call = ("show", "recipe", filled.report.recipe_id[:6], "--config", filled.config_file, "--format", "json")
    shown = json.loads(cli(*call).stdout)
    assert shown["recipe_id"] == filled.report.recipe_id
    assert shown["sparsifier"]["name"] == "varopt"
    assert cli("show", "recipe", "--config", filled.config_file).exit_code == 2
    assert cli("show", "student", "none", "--config", filled.config_file).exit_code == 5


def test_verify_passes_on_what_was_committed_and_ends_with_7_on_what_was_changed(
    cli: Any, filled: Any, tmp_path: Path
) -> None:
    assert cli("verify", "--config", filled.config_file).exit_code == 0
    copy = tmp_path / "copy"
    shutil.copytree(filled.config.lake.path, copy)
    shard = next((copy / "data" / "store" / "sequences").rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    result = cli("verify", "--lake", copy, "--format", "json")
    assert result.exit_code == 7
    assert len(json.loads(result.stdout)) == 1


def test_rebuild_makes_the_catalog_again_and_never_overwrites_one(cli: Any, filled: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(filled.config.lake.path / "data", copy / "data")
    report = json.loads(cli("rebuild", "--lake", copy, "--format", "json").stdout)
    assert (report["n_documents"], report["skipped"]) == (30, {})
    assert cli("rebuild", "--lake", copy).exit_code == 5


def test_rebuild_ends_with_7_if_damage_was_left_out_and_the_catalog_is_there(
    cli: Any, filled: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(filled.config.lake.path / "data", copy / "data")
    shard = min((copy / "data" / "store" / "sequences").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:200])
    result = cli("rebuild", "--lake", copy, "--format", "json")
    assert result.exit_code == 7 and f"damaged {shard}" in result.stderr
    report = json.loads(result.stdout)
    files = [name for name in report["damaged"] if not name.startswith("unit ")]
    assert files == [str(shard)] and 0 < report["n_documents"] < 30
    assert cli("verify", "--lake", copy).exit_code == 0


def test_verify_ends_with_7_for_a_catalog_that_is_older_than_its_data(cli: Any, filled: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    settings = filled.config.lake.held_out
    Lake.create(LakeLocation.resolve(copy), held_out_salt=settings.salt, held_out_share=settings.share).close()
    shutil.copytree(filled.config.lake.path / "data", copy / "data", dirs_exist_ok=True)
    result = cli("verify", "--lake", copy, "--format", "json")
    assert result.exit_code == 7 and "logitlake rebuild" in result.stderr
    assert {row["table"] for row in json.loads(result.stdout)} == {"catalog"}
    before = sorted(copy.rglob("*.parquet"))
    assert cli("maintain", "--dry-run", "--lake", copy).exit_code == 7
    assert sorted(copy.rglob("*.parquet")) == before


@pytest.mark.parametrize("command", [["--help"], ["show", "runs"], ["sql", "SELECT 1"], ["verify"], ["plan"]])
def test_commands_that_run_no_flow_load_neither_torch_nor_prefect(filled: Any, command: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["logitlake", *{command!r}]
from logitlake.flows.cli.app import main
try:
    main()
except SystemExit as done:
    print([name for name in {HEAVY!r} if name in sys.modules], done.code or 0)
"""
    call = [sys.executable, "-c", script]
    done = subprocess.run(
        call,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LOGITLAKE_CONFIG": str(filled.config_file)},
    )
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_the_default_tables_cut_no_line_when_piped(cli: Any, filled: Any) -> None:
    result = cli("sql", "SELECT repeat('x', 300) AS wide", "--config", filled.config_file)
    assert "x" * 300 in result.stdout


def test_a_corpus_directory_without_files_yet_is_no_error(
    cli: Any, config: Any, config_file: Path, run_capture: Any
) -> None:
    incoming = config_file.parent / "incoming"
    incoming.mkdir()
    result = cli("plan", "--config", config_file, "--set", f"corpora.test.path={incoming}", "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)["documents_new"]) == (0, 0), result.stderr
    assert "no file below" in result.stderr
    corpus = config.corpora[0].model_copy(update={"path": str(incoming)})
    report = run_capture(config.model_copy(update={"corpora": (corpus,)}))
    assert (report.documents_seen, report.n_units) == (0, 0)


def test_a_command_runs_where_the_caller_has_closed_its_output() -> None:
    call = f"{sys.executable} -m logitlake --version >&-"
    done = subprocess.run(call, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
