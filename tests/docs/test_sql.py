"""docs/sql.md says what the SQL face is now, and its questions have answers in a client that knows nothing of us."""

import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.questions import COMMAND_LINE, ask, questions
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.sql.reference import with_dictionary
from logitlake.storage.sql.session import ReadSession
from logitlake.storage.students.losses import LOSSES, record_losses
from logitlake.storage.students.registry import register_student
from logitlake.storage.writing.commits import SOURCES, commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary

PAGE = Path("docs/sql.md").read_text(encoding="utf-8")
VOCABULARY = 20
QUESTIONS = questions(PAGE)


def _rows(make_rows: Any, recipe: dict[str, Any], seed: int) -> pa.Table:
    """Twenty documents with random targets; the second has the same text as the first."""
    rows = make_rows([40] * 20, vocab=VOCABULARY, seed=seed, recipe_id=id_of_recipe(recipe)).to_pylist()
    texts = make_rows([40] * 20, vocab=VOCABULARY, seed=0).to_pylist()
    for row, text in zip(rows, texts, strict=True):
        row |= {"input_ids": text["input_ids"], "source": f"{row['doc_id']}/__init__.py"}
    rows[1]["input_ids"] = rows[0]["input_ids"]
    return pa.Table.from_pylist(rows, SEQUENCES)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, make_rows: Any) -> LakeLocation:
    """Two teachers over the same documents, a student, and its losses."""
    location = LakeLocation.resolve(tmp_path_factory.mktemp("sql") / "lake")
    with Lake.create(location, held_out_salt="u", held_out_share=0.2) as lake:
        register_vocabulary(lake, "t", [f"t{number}" for number in range(VOCABULARY)], {0})
        for seed, name in enumerate(("small", "large")):
            teacher: dict[str, Any] = {"teacher": {"name": name}, "tokenizer": "t", "temperature": 1.0, "bos": "never"}
            recipe = teacher | {"sparsifier": {"name": "varopt", "threshold": 0.05}}
            register_recipe(lake, recipe)
            rows = _rows(make_rows, recipe, seed)
            seen = [
                {"doc_id": row["doc_id"], "corpus": row["corpus"], "source": row["source"], "line": None}
                for row in rows.to_pylist()
            ]
            sources = pa.Table.from_pylist(seen, SOURCES)
            commit_unit(lake, rows, recipe=recipe, run_id="run", seconds=1.0, sources=sources)
        learned = resolve_row_set(lake, recipe_id=id_of_recipe(recipe))
        register_row_set(lake, learned)
        student = {"student_id": "s", "parent_id": "p", "run_id": "r", "directory": "/d"}
        register_student(lake, row_set_id=learned.row_set_id, settings={}, metrics={}, **student)
        losses = [
            {"doc_id": doc_id, "n_targets": 10, "student_loss": 30.0, "teacher_loss": 20.0, "kl": None}
            for doc_id in lake.sql("SELECT doc_id FROM documents WHERE held_out")["doc_id"].to_pylist()
        ]
        measured = pa.Table.from_pylist(losses, LOSSES)
        record_losses(lake, measured, student_id="s", recipe_id=id_of_recipe(recipe), run_id="m", exact=False)
    return location


def test_the_reference_of_views_and_columns_is_that_of_the_lake() -> None:
    assert with_dictionary(PAGE) == PAGE, "out of date: python -m logitlake.storage.sql.reference docs/sql.md"
    assert "| `tv_at_least` |" in PAGE


def test_every_block_of_sql_is_a_question_with_a_title() -> None:
    assert len(QUESTIONS) == PAGE.count("```sql") >= 12


@pytest.mark.parametrize(("title", "sql"), QUESTIONS, ids=[title for title, _ in QUESTIONS])
def test_a_question_has_an_answer_in_the_command_line_and_in_our_own(
    location: LakeLocation, title: str, sql: str
) -> None:
    answer = ask(location, title, sql)
    assert answer.error == ""
    with ReadSession(location) as session:
        assert session.ask(sql).num_rows == answer.n_rows > 0


def test_the_command_line_can_not_write_to_a_lake_that_it_was_shown(location: LakeLocation) -> None:
    answer = ask(location, "write", "DELETE FROM store.sequences;")
    assert "read-only" in answer.error


def test_the_command_line_sees_views_under_another_alias(location: LakeLocation) -> None:
    from logitlake.storage.sql.client_setup import client_lines

    lines = "\n".join(client_lines(location)).replace("AS lake (", "AS other (").replace("USE lake;", "USE other;")
    command = [str(COMMAND_LINE), "-no-init", "-bail", "-csv"]
    sql = "SELECT count(*) AS n FROM other.positions; USE memory; SELECT other.nats(32), count(*) FROM other.heads;"
    done = subprocess.run(command, input=f"{lines}\n{sql}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.0," in done.stdout
