"""A lake that is hard to show: several recipes and corpora, students with a family, and texts that mean harm.

Made by `storage` alone, in a second: no teacher and no student was ever there.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.students.losses import LOSSES, record_losses
from logitlake.storage.students.promotions import promote, reject
from logitlake.storage.students.registry import register_student
from logitlake.storage.writing.commits import REJECTS, SOURCES, commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run

LEVELS = 64

# Markup that would run, end an element or load something; bytes of characters that are torn; marks that turn a line
# around; a token without end.
STRANGE = [
    *(
        "<script>document.title='owned'</script>",
        "</script>",
        "<img src=x onerror=\"document.title='owned'\">",
        "&amp;",
    ),
    *("<!--", "{{ 7 * 7 }}", "{% raw %}", "`code`", "\"'", "https://example.org/x.js", "</textarea><style>"),
    *("\x00", "\x07\x1b[31m", "\x7f", "\u202eabc", "\u2028", "\ufeff", "\t", "\n", "\r\n", "    ", "─" * 200),
    *("שלום", " עולם", "مرحبا", " 日本", "語", "👩\u200d💻", "e\u0301", "naïve", " Ã©"),
]
_WORDS = [
    f" {word}" for word in ("the", "a", "of", "teacher", "student", "learns", "token", "where", "comes", "after", "not")
]


def vocabulary() -> list[str]:
    """The texts of all ids: the bytes from 0x80 as byte-level BPE writes them, words, and what is strange."""
    plain = [*range(0xA1, 0xAD), *range(0xAE, 0x100)]
    torn = [chr(byte) if byte in plain else chr(256 + 34 + byte - 0x80) for byte in range(0x80, 0x100) if byte != 0xAD]
    return [*torn, chr(256 + 67), *_WORDS, *STRANGE]


def recipe(name: str, sparsifier: dict[str, Any]) -> dict[str, Any]:
    return {
        "teacher": {"name": name, "weights": "w" * 32, "adapter": None, "dtype": "float32", "engine": "transformers"},
        "tokenizer": "strange",
        "vocabulary": len(vocabulary()),
        "sparsifier": sparsifier,
        "quantiser": {"name": "systematic", "levels": LEVELS},
        "temperature": 1.0,
        "seed": 0,
    }


RECIPES = (
    recipe("big", {"name": "varopt", "threshold": 0.05}),
    recipe("big", {"name": "random", "draws": LEVELS}),
    recipe("</select><script>document.title='owned'</script>", {"name": "top_k", "k": 2}),
)
STUDENTS = tuple(letter * 32 for letter in "abc")
CORPORA = ("books", '<b>notes</b> & "quotes"')


def make_strange_lake(directory: Path) -> LakeLocation:
    """The lake, with three recipes, two corpora under the first, and three students: parent, child and a reject."""
    location = LakeLocation.resolve(directory)
    with Lake.create(location, held_out_salt="s", held_out_share=0.2) as lake:
        rng = np.random.default_rng(0)
        register_vocabulary(lake, "strange", vocabulary(), {0})
        for number, made in enumerate(RECIPES):
            register_recipe(lake, made)
            note_run(lake, f"run{number}", "started", kind="capture", recipe_id=id_of_recipe(made))
            for corpus in CORPORA[: 2 if number == 0 else 1]:
                for part in range(2):
                    _commit(lake, rng, made, corpus, f"{number}-{corpus}-{part}", f"run{number}")
            note_run(lake, f"run{number}", "finished", kind="capture", recipe_id=id_of_recipe(made))
        _add_students(lake)
    return location


def _commit(lake: Lake, rng: np.random.Generator, made: dict[str, Any], corpus: str, name: str, run_id: str) -> None:
    rows = [_row(rng, made, corpus, f"{name}/{number}") for number in range(12)]
    source = [{"doc_id": row["doc_id"], "corpus": corpus, "source": row["source"], "line": None} for row in rows]
    reject = [{"corpus": corpus, "source": name, "line": 1, "reason": "empty", "detail": "<i>nothing</i>"}]
    commit_unit(
        lake,
        pa.Table.from_pylist(rows, SEQUENCES),
        recipe=made,
        run_id=run_id,
        seconds=30.0,
        sources=pa.Table.from_pylist(source, SOURCES),
        rejects=pa.Table.from_pylist(reject, REJECTS),
    )


def _row(rng: np.random.Generator, made: dict[str, Any], corpus: str, name: str) -> dict[str, Any]:
    n, size = 130, len(vocabulary())
    ids = rng.integers(0, size, n)
    # The three bytes of one character, each a token of its own.
    ids[60:63] = [vocabulary().index(piece) for piece in ("â", chr(256 + 34 + 0x02), "¬")]
    heads = [[int(ids[at + 1]), *map(int, rng.choice(size, 3, replace=False))][: 2 + at % 3] for at in range(n - 1)]
    codes = [sorted(map(int, rng.integers(1, 15, len(ids))), reverse=True) for ids in heads]
    has_tails = made["sparsifier"]["name"] == "varopt"
    tails = [sorted(map(int, rng.integers(0, size, 3))) if has_tails else [] for _ in range(n - 1)]
    entropy = [int(code) for code in rng.integers(0, 160, n - 1)]
    surprise = [int(code) for code in rng.integers(0, 320, n - 1)]
    return {
        "recipe_id": id_of_recipe(made),
        "doc_id": document_id(name),
        "unit_id": "",
        "corpus": corpus,
        "source": f"{name}/<u>file</u>.txt",
        "window_index": 0,
        "start": 0,
        "n_tokens": n,
        "n_targets": n - 1,
        "levels": LEVELS,
        "input_ids": ids.tolist(),
        "target_ids": [*(h + t for h, t in zip(heads, tails, strict=True)), []],
        "head_codes": [*codes, []],
        "entropy_codes": [*entropy, None],
        "nll_codes": [*surprise, None],
        "mean_entropy": sum(entropy) / 32 / len(entropy),
        "mean_nll": sum(surprise) / 32 / len(surprise),
        "checksum": "",
    }


def _add_students(lake: Lake) -> None:
    first = id_of_recipe(RECIPES[0])
    rows = resolve_row_set(lake, recipe_id=first, where="corpus <> '<i>'")
    register_row_set(lake, rows)
    settings = {"student": {"source": "teacher", "layers": 4, "model": None}, "training": {"epochs": 1}}
    for number, parent in enumerate(("w" * 32, STUDENTS[0], STUDENTS[0])):
        kl = 0.9 - 0.2 * number
        register_student(
            lake,
            student_id=STUDENTS[number],
            parent_id=parent,
            row_set_id=rows.row_set_id,
            run_id="run0",
            directory="nowhere",
            settings=settings,
            metrics={
                "train": {"steps": 50, "tokens": 4000 + number, "tokens_per_second": 800.0},
                "curve": [[step, 5.0 - number - step / 20] for step in range(1, 51)],
                "before": _measured(kl + 2),
                "after": _measured(kl),
                "teacher": _measured(0.0),
            },
        )
    _add_losses(lake)
    promote(lake, STUDENTS[1], expected=None, figures={}, run_id="run0")
    reject(lake, STUDENTS[2], figures={}, run_id="run0")
    note_run(lake, "run9", "started", kind="distill", recipe_id=first, at=str(datetime.now(UTC)))


def _add_losses(lake: Lake) -> None:
    """The newest student on five documents of the first recipe, the further behind the later it comes by id."""
    recipe_id = id_of_recipe(RECIPES[0])
    held_out = lake.sql("SELECT doc_id FROM documents WHERE recipe_id = ? ORDER BY doc_id LIMIT 5", [recipe_id])[
        "doc_id"
    ].to_pylist()
    rows = [
        {"doc_id": doc_id, "n_targets": 100, "student_loss": 200.0 + 50 * number, "teacher_loss": 150.0, "kl": 60.0}
        for number, doc_id in enumerate(held_out)
    ]
    losses = pa.Table.from_pylist(rows, LOSSES)
    record_losses(lake, losses, student_id=STUDENTS[2], recipe_id=recipe_id, run_id="run0", exact=True)


def _measured(kl: float) -> dict[str, Any]:
    return {
        "cross_entropy": 2.0 + kl,
        "kl": kl,
        "kl_stderr": 0.02 if kl else None,
        "top1_agreement": 1 - kl / 4,
        "calibration_error": 0.03,
        "n_targets": 500,
    }
