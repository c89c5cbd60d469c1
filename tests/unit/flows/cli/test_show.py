"""`logitlake show`: each thing on one screen, and the same facts for programs."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.flows.cli.screens.document import coloured, token_rows
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.students.promotions import promote
from logitlake.storage.students.registry import register_student

STUDENT = "5" * 32


@pytest.fixture
def ask(cli: Any, filled: Any) -> Any:
    """`ask("show", "lake")` on a filled lake that nobody changes; JSON is decoded."""

    def call(*arguments: object, form: str = "json") -> Any:
        result = cli(*arguments, "--config", filled.config_file, "--format", form)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout) if form == "json" else result.stdout

    return call


def with_student(config: Config, recipe_id: str, directory: Path) -> None:
    """Make a student known that was never trained, with the metrics of one that was."""
    with Lake.open(location_of(config), read_only=False) as lake:
        rows = resolve_row_set(lake, recipe_id=recipe_id)
        register_row_set(lake, rows)
        measured = {"cross_entropy": 3.25, "kl": 0.5, "kl_stderr": 0.01, "top1_agreement": 0.5, "n_targets": 9}
        register_student(
            lake,
            student_id=STUDENT,
            parent_id="p" * 32,
            row_set_id=rows.row_set_id,
            run_id="run",
            directory=str(directory),
            settings={"student": {"layers": 1, "lora": None}, "training": {"epochs": 2}},
            metrics={"train": {"loss": 2.5}, "before": measured, "after": measured | {"kl": 0.25}},
        )
        promote(lake, STUDENT, expected=None, figures={"reason": "the first"}, run_id="run")


def texts_of(corpus_file: Path) -> dict[int, str]:
    """The text of each line of the corpus, less the digits: the tiny tokenizer has none."""
    lines = enumerate(corpus_file.read_bytes().splitlines(), start=1)
    found = {number: orjson.loads(line)["text"] for number, line in lines if line.startswith(b'{"text"')}
    return {number: re.sub(r"\d", "", text) for number, text in found.items()}


def test_the_lake_on_one_screen(ask: Any, filled: Any) -> None:
    facts = ask("show", "lake")
    assert facts["size"]["documents"] == 30
    assert facts["size"]["tokens"] == filled.report.n_tokens
    assert facts["size"]["rejects"] == 1
    assert facts["lake"]["held_out_share"] == 0.2
    assert [row["recipe_id"] for row in facts["recipes"]] == [filled.report.recipe_id]
    assert facts["growth"][0]["tokens_in_all"] == filled.report.n_tokens
    assert facts["runs"][0]["run_id"] == filled.report.run_id
    assert facts["health"]["last_upkeep"] is None
    screen = ask("show", form="table")
    assert len(screen.splitlines()) < 50
    assert "`logitlake maintain`" in screen


def test_the_lake_says_who_learned_from_it(
    cli: Any, config: Config, config_file: Path, captured: Any, tmp_path: Path
) -> None:
    with_student(config, captured.recipe_id, tmp_path)
    call = ("show", "lake", "--config", config_file)
    (student,) = json.loads(cli(*call, "--format", "json").stdout)["students"]
    assert (student["student_id"], student["aliases"], student["kl"]) == (STUDENT, "current", 0.25)
    assert f"{STUDENT[:12]}  current" in cli(*call).stdout


def test_an_empty_lake_has_a_screen_too(cli: Any, config: Config, config_file: Path) -> None:
    with Lake.create(location_of(config), held_out_salt="s", held_out_share=0.1):
        pass
    result = cli("show", "lake", "--config", config_file)
    assert result.exit_code == 0, result.stderr
    assert "documents             0" in result.stdout
    empty = cli("show", "runs", "--config", config_file)
    assert "no runs yet" in empty.stderr


def test_a_recipe_with_what_it_holds(ask: Any, filled: Any) -> None:
    facts = ask("show", "recipe", filled.report.recipe_id[:6])
    assert facts["sparsifier"]["name"] == "varopt"
    assert facts["holds"]["targets"] == filled.report.n_targets
    assert facts["holds"]["bytes_per_token"] == pytest.approx(filled.report.bytes_per_token)
    assert [run["run_id"] for run in facts["captures"]] == [filled.report.run_id]
    screen = ask("show", "recipe", filled.report.recipe_id[:6], form="table")
    assert "sparsifier threshold" in screen


@pytest.mark.parametrize("name", ["last", "its beginning"])
def test_a_run_with_what_it_did(ask: Any, filled: Any, name: str) -> None:
    facts = ask("show", "run", "last" if name == "last" else filled.report.run_id[:20])
    assert facts["run"]["run_id"] == filled.report.run_id
    assert (facts["run"]["kind"], facts["run"]["status"]) == ("capture", "finished")
    assert facts["committed"]["n_tokens"] == filled.report.n_tokens
    assert facts["report"]["documents_rejected"] == 1
    assert facts["run"]["seconds"] > 0


def test_a_student_with_lineage_metrics_and_rows(
    cli: Any, config: Config, config_file: Path, captured: Any, tmp_path: Path
) -> None:
    with_student(config, captured.recipe_id, tmp_path)
    for name in ("current", STUDENT[:4]):
        shown = json.loads(cli("show", "student", name, "--config", config_file, "--format", "json").stdout)
        assert shown["student_id"] == STUDENT
        assert shown["aliases"] == ["current"]
        assert shown["row_set"]["recipe_ids"] == [captured.recipe_id]
        assert shown["decisions"][0]["reason"] == "the first"
    screen = cli("show", "student", STUDENT[:4], "--config", config_file).stdout
    assert [line.split()[:3] for line in screen.splitlines() if line.startswith(("before", "after"))] == [
        ["before", "3.25", "0.5"],
        ["after", "3.25", "0.25"],
    ]
    assert "student layers" in screen
    assert "lora" not in screen


def test_a_document_by_its_source_and_line_has_its_text_and_numbers(ask: Any, filled: Any, corpus_file: Path) -> None:
    for line, text in list(texts_of(corpus_file).items())[1:4]:
        for name in (f"test/documents.jsonl:{line}", f"documents.jsonl:{line}"):
            document = ask("show", "document", name)
            assert "".join(token["text"] for token in document["tokens"]) == f"{text}<|end|>"
            assert [token["position"] for token in document["tokens"]] == list(range(len(document["tokens"])))
            assert document["tokens"][0]["logprob"] is None
            assert all(token["logprob"] <= 0 <= token["entropy"] for token in document["tokens"][1:])
        assert ask("show", "document", document["doc_id"][:10])["doc_id"] == document["doc_id"]


def test_the_numbers_of_a_document_are_those_of_the_view_positions(ask: Any) -> None:
    document = ask("show", "document", "documents.jsonl:3")
    rows = ask("sql", f"SELECT position, logprob, entropy FROM positions WHERE doc_id = '{document['doc_id']}'")
    known = {token["position"]: token for token in document["tokens"] if token["logprob"] is not None}
    assert len(rows) == len(known) > 0
    for row in rows:
        token = known[row["position"]]
        assert (token["logprob"], token["entropy"]) == pytest.approx((row["logprob"], row["entropy"]))


def test_a_document_for_a_person_is_its_facts_and_its_plain_text(ask: Any, filled: Any, corpus_file: Path) -> None:
    screen = ask("show", "document", "documents.jsonl:3", form="table")
    assert texts_of(corpus_file)[3] in screen
    assert filled.report.recipe_id[:12] in screen
    assert "\x1b" not in screen
    assert "The teacher gave" not in screen, "a legend of colours where there are none"


def test_csv_of_a_document_is_its_tokens(ask: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("show", "document", "documents.jsonl:3", form="csv"))))
    assert len(rows) == len(ask("show", "document", "documents.jsonl:3")["tokens"])
    assert set(rows[0]) == {"position", "token_id", "token", "logprob", "entropy", "text"}


def test_a_long_document_is_cut_and_says_so(cli: Any, filled: Any) -> None:
    result = cli("show", "document", "documents.jsonl:3", "--limit", 4, "--format", "json", "-c", filled.config_file)
    assert len(json.loads(result.stdout)["tokens"]) == 4
    assert "more tokens" in result.stderr


def test_a_name_that_means_several_documents_lists_them(cli: Any, filled: Any) -> None:
    result = cli("show", "document", "documents.jsonl", "--config", filled.config_file)
    assert result.exit_code == 5
    assert "30 documents" in result.stderr
    assert "test/documents.jsonl:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("document", "no-such-file.txt"), 5, "corpus/path"),
        (("run", "19990101"), 5, "show runs"),
        (("student", "zz"), 5, "show students"),
        (("recipe", "zz"), 5, "show recipes"),
        (("document",), 2, "show documents"),
        (("run",), 2, "show runs"),
        (("lake", "x"), 2, "expected no name"),
        (("runs", "x"), 2, "expected no name"),
    ],
)
def test_a_wrong_name_says_what_to_do(cli: Any, filled: Any, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = cli("show", *arguments, "--config", filled.config_file)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr


def test_csv_of_a_screen_has_a_line_per_value(ask: Any, filled: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("show", "lake", form="csv"))))
    assert {"section": "size", "row": "0", "name": "documents", "value": "30"} in rows
    assert {"section": "recipes", "row": "0", "name": "recipe_id", "value": filled.report.recipe_id} in rows


def test_colours_follow_the_surprise_and_parts_of_a_character_are_one() -> None:
    rows = [
        {"text": "first", "logprob": None},
        {"text": " sure", "logprob": -0.01},
        {"text": "", "logprob": -2.0},
        {"text": "🙂", "logprob": -1.0},
        {"text": "\x1b[2J", "logprob": -20.0},
    ]
    text = coloured(rows)
    assert text.plain == "first sure🙂␛[2J"
    styles = [str(span.style) for span in text.spans]
    assert styles[0] == "dim"
    assert len(set(styles)) == 3
    assert "b10026" in styles[-1]


def test_tokens_join_to_the_text_where_they_split_characters() -> None:
    import pyarrow as pa

    rows = token_rows(pa.table({"token": ["a", "ð", "Ł", "Ļ", "Ĥ", None, "b"]}))
    assert [row["text"] for row in rows] == ["a", "", "", "", "🙂", "", "b"]
