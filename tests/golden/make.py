"""Writes `tests/golden/format-N`, a small lake as the logitlake of this day makes it: `python -m tests.golden.make`.

Run once for each new format version and commit what it wrote; a lake of an older version is never made again, since
what it proves is that lakes made long ago can still be read.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import FORMAT_VERSION, SEQUENCES
from logitlake.storage.students.promotions import promote
from logitlake.storage.students.registry import register_student
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary

HERE = Path(__file__).resolve().parent
RECIPES: tuple[dict[str, Any], ...] = tuple(
    {
        "teacher": {"name": "tiny", "hash": "t"},
        "tokenizer": "words",
        "sparsifier": {"name": name, "levels": 64},
        "temperature": 1.0,
        "format_version": 1,
        **more,
    }
    for name, more in (("varopt", {}), ("top_k", {}), ("varopt", {"logprob_steps_per_nat": 1024}))
)
TRACE: dict[str, Any] = {
    "nll_steps_per_nat": 1024,
    "nll_codes": [513, None, 255, None],
    "writer": "student-1",
    "sampling_settings": '{"temperature":0.7,"top_p":0.9}',
    "sampling_seed": 11,
    "sample_number": 2,
    "writer_nll_codes": [700, None, 300, None],
    "writer_nll_steps_per_nat": 1024,
    "verdict": 1.0,
    "verdict_reason": "the answer is right",
}
QUESTIONS = {
    "sequences": "SELECT * EXCLUDE (unit_id) FROM sequences ORDER BY recipe_id, doc_id, window_index",
    "documents": "SELECT doc_id, recipe_id, n_tokens, n_sequences, sources FROM documents ORDER BY recipe_id, doc_id",
    "positions": "SELECT * FROM positions ORDER BY recipe_id, doc_id, window_index, position",
    "targets": "SELECT * FROM targets ORDER BY recipe_id, doc_id, window_index, position, probability, token_id",
    "students": "SELECT student_id, depth, ancestor_id, filter, n_sequences FROM lineage ORDER BY student_id, depth",
    "aliases": "SELECT alias, student_id FROM aliases ORDER BY alias",
    "forgotten": "SELECT doc_id FROM forgotten ORDER BY doc_id",
}


def answers(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """The answer of a lake to every question, as JSON holds it."""
    found = {name: lake.sql(question).to_pylist() for name, question in QUESTIONS.items()}
    return dict(json.loads(json.dumps(found, default=str)))


def main() -> None:
    """Make the lake, and write its answers beside it."""
    directory = HERE / f"format-{FORMAT_VERSION}"
    # Made elsewhere and moved, as people do with lakes: a catalog remembers where it was made.
    with tempfile.TemporaryDirectory() as made:
        location = LakeLocation.resolve(Path(made) / "lake")
        with Lake.create(location, held_out_salt="golden", held_out_share=0.25) as lake:
            _fill(lake)
            found = answers(lake)
        shutil.copytree(Path(made) / "lake", directory / "lake", ignore=shutil.ignore_patterns("*.lock"))
    (directory / "answers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _fill(lake: Lake) -> None:
    register_vocabulary(lake, "words", ["<s>", "the", "cat", "sat", "on", "mat", "é", " "], {0})
    for recipe in RECIPES:
        register_recipe(lake, recipe)
        for names in (("a", "b", "c"), ("d", "e")):
            commit_unit(lake, _rows(recipe, names), recipe=recipe, run_id="golden", seconds=1.0)
    row_set = resolve_row_set(lake, recipe_id=id_of_recipe(RECIPES[0]), where="n_tokens > 1")
    register_row_set(lake, row_set)
    for number, parent in enumerate(("teacher", "student-0")):
        register_student(
            lake,
            student_id=f"student-{number}",
            parent_id=parent,
            row_set_id=row_set.row_set_id,
            run_id="golden",
            directory=f"students/{number}",
            settings={"training": {"epochs": 1}},
            metrics={"train_loss": 1.5},
        )
    promote(lake, "student-1", expected=None, figures={"reason": "golden"}, run_id="golden")
    forget(lake, [document_id("b")], reason="golden")


def _rows(recipe: dict[str, Any], names: tuple[str, ...]) -> pa.Table:
    """Two windows a document; heads and tails, one position masked, ids above 2^16."""
    tails = [70_000, 70_000] if recipe["sparsifier"]["name"] == "varopt" else []
    rows = []
    for name in names:
        for window in range(2):
            rows.append(
                {
                    "recipe_id": id_of_recipe(recipe),
                    "doc_id": document_id(name),
                    "unit_id": "",
                    "corpus": "golden",
                    "source": f"{name}.txt",
                    "window_index": window,
                    "start": 3 * window,
                    "n_tokens": 4,
                    "n_targets": 2,
                    "levels": 64,
                    "input_ids": [1, 2, 3 + window, 5],
                    "target_ids": [[2, 6, *tails], [], [5, *tails], []],
                    "head_codes": [[32, 16], [], [48], []],
                    "entropy_codes": [32, None, 64, None],
                    "nll_codes": [16, None, 8, None],
                    "mean_entropy": 1.5,
                    "mean_nll": 0.375,
                    "checksum": "",
                    **(TRACE if "logprob_steps_per_nat" in recipe else {}),
                }
            )
    return pa.Table.from_pylist(rows, SEQUENCES)


if __name__ == "__main__":
    main()
