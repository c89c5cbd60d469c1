"""A lake against a plain Python model: any order of what people and upkeep do to it, by two writers."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError
from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.rebuild.catalog import rebuild
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.shards.writing import write_shard
from logitlake.storage.students.promotions import promote, roll_back
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget, retire_recipe
from logitlake.storage.upkeep.sweeping import sweep
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.commits import SOURCES, commit_unit, register_shard, stored_rows
from logitlake.storage.writing.recipes import register_recipe

RECIPES: list[dict[str, Any]] = [
    {"teacher": {"name": "tiny"}, "tokenizer": "t", "sparsifier": {"name": "varopt"}, "temperature": temperature}
    for temperature in (1.0, 2.0)
]
NAMES = st.sets(st.integers(0, 9), min_size=1, max_size=4)
WRITERS = st.sampled_from((0, 1))
CONTENT = """
    SELECT 'sequence' AS what, recipe_id AS a, doc_id AS b FROM sequences
    UNION ALL SELECT 'document', recipe_id, doc_id FROM documents
    UNION ALL SELECT 'source', doc_id, source FROM sources
    UNION ALL SELECT DISTINCT 'forgotten', doc_id, '' FROM forgotten
    UNION ALL SELECT 'row set', row_set_id, '' FROM row_sets
    UNION ALL SELECT 'alias', alias, student_id FROM aliases
"""


def _rows(names: list[int], recipe: dict[str, Any]) -> pa.Table:
    shared = {
        "recipe_id": recipe_id(recipe),
        "unit_id": "",
        "corpus": "c",
        "window_index": 0,
        "start": 0,
        "n_tokens": 2,
        "n_targets": 1,
        "levels": 64,
        "target_ids": [[2, 3], []],
        "head_codes": [[60], []],
        "checksum": "",
        "entropy_codes": [1, None],
        "nll_codes": [1, None],
        "mean_entropy": 0.1,
        "mean_nll": 0.1,
    }
    rows = [
        {**shared, "doc_id": document_id(str(name)), "source": str(name), "input_ids": [name, name]} for name in names
    ]
    return pa.Table.from_pylist(rows, SEQUENCES)


@cache
def _empty_lake() -> Path:
    """A lake with both recipes, made once and copied."""
    directory = Path(tempfile.mkdtemp()) / "lake"
    with Lake.create(LakeLocation.resolve(directory), held_out_salt="s", held_out_share=0.0) as lake:
        for recipe in RECIPES:
            register_recipe(lake, recipe)
    return directory


class LakeMachine(RuleBasedStateMachine):
    """The model: which documents each recipe has cached, the file of each document, the forgotten documents, the row
    sets, and the students that the alias can be rolled back through."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        shutil.copytree(_empty_lake(), self.directory / "lake")
        self.location = LakeLocation.resolve(self.directory / "lake")
        self.cached: set[tuple[str, str]] = set()
        self.sources: set[tuple[str, str]] = set()
        self.forgotten: set[str] = set()
        self.unregistered: set[tuple[str, str]] = set()
        self.row_sets: set[str] = set()
        self.line: list[str] = []
        self.last_commit = 0
        self.backup: tuple[int, Path] | None = None
        self._open()

    def _open(self) -> None:
        self.writers = [Lake.open(self.location, read_only=False) for _ in range(2)]

    def _close(self) -> None:
        for lake in self.writers:
            lake.close()

    @rule(names=NAMES, recipe=st.sampled_from(RECIPES), writer=WRITERS)
    def commit(self, names: set[int], recipe: dict[str, Any], writer: int) -> None:
        doc_ids = {document_id(str(name)): str(name) for name in sorted(names)}
        sources = [{"doc_id": d, "corpus": "c", "source": name, "line": None} for d, name in doc_ids.items()]
        receipt = commit_unit(
            self.writers[writer],
            _rows(sorted(names), recipe),
            recipe=recipe,
            run_id="run",
            seconds=1.0,
            sources=pa.Table.from_pylist([s for s in sources if s["doc_id"] not in self.forgotten], SOURCES),
        )
        new = {(recipe_id(recipe), doc_id) for doc_id in doc_ids if doc_id not in self.forgotten} - self.cached
        assert receipt.n_documents == len(new)
        self.cached |= new
        self.sources |= {(doc_id, name) for doc_id, name in doc_ids.items() if doc_id not in self.forgotten}

    @rule(names=NAMES, writer=WRITERS)
    def forget(self, names: set[int], writer: int) -> None:
        doc_ids = {document_id(str(name)) for name in names}
        gone = {row for row in self.cached if row[1] in doc_ids}
        assert forget(self.writers[writer], sorted(doc_ids), reason="asked").n_sequences == len(gone)
        self.cached -= gone
        self.sources = {row for row in self.sources if row[0] not in doc_ids}
        self.forgotten |= doc_ids

    @rule(target_bytes=st.sampled_from((1, 5_000, 1 << 20)), writer=WRITERS)
    def compact(self, target_bytes: int, writer: int) -> None:
        for merge in plan_compaction(self.writers[writer], target_bytes=target_bytes):
            assert compact(self.writers[writer], merge) is not None

    @rule(writer=WRITERS)
    def merge_small_tables(self, writer: int) -> None:
        merge_small_tables(self.writers[writer])

    @rule(writer=WRITERS)
    def sweep(self, writer: int) -> None:
        self._sweep(writer)

    def _sweep(self, writer: int) -> None:
        """Without any grace, two hours after the last file was written: younger orphans stay for their writers."""
        two_hours_ago = time.time() - 7200
        for path in (self.directory / "lake" / "data").rglob("*"):
            os.utime(path, (two_hours_ago, two_hours_ago))
        assert sweep(self.writers[writer], grace=timedelta(0)).damaged_files == ()
        self.unregistered = set()

    @rule(recipe=st.sampled_from(RECIPES), writer=WRITERS)
    def retire(self, recipe: dict[str, Any], writer: int) -> None:
        """With the sweep that makes it final: before it, a rebuild takes the rows back."""
        gone = {row for row in self.cached if row[0] == recipe_id(recipe)}
        assert retire_recipe(self.writers[writer], recipe_id(recipe)) == len(gone)
        self._sweep(writer)
        self.cached -= gone

    @rule()
    def reopen(self) -> None:
        self._close()
        self._open()

    @precondition(lambda self: self.cached)
    @rule()
    def lose_the_catalog(self) -> None:
        self._close()
        assert self.location.state_directory is not None
        for file in self.location.state_directory.glob("catalog.sqlite*"):
            file.unlink()
        self._rebuild()
        self._open()

    def _rebuild(self) -> None:
        assert rebuild(self.location).damaged == {}
        self.cached |= {row for row in self.unregistered if row[1] not in self.forgotten}
        self.unregistered = set()

    @rule(names=NAMES, recipe=st.sampled_from(RECIPES), writer=WRITERS)
    def give_up_in_a_transaction(self, names: set[int], recipe: dict[str, Any], writer: int) -> None:
        """As an error does, or Ctrl-C: nothing of it may be seen until a rebuild finds the whole shard."""
        rows = stored_rows(_rows(sorted(names), recipe))
        shard, _ = write_shard(self.location, rows, recipe)
        with pytest.raises(KeyboardInterrupt), self.writers[writer].transaction() as transaction:
            register_shard(transaction, shard, rows)
            raise KeyboardInterrupt
        self.unregistered |= {(recipe_id(recipe), document_id(str(name))) for name in names}

    @rule(recipe=st.sampled_from(RECIPES), writer=WRITERS)
    def register_a_row_set(self, recipe: dict[str, Any], writer: int) -> None:
        if any(row[0] == recipe_id(recipe) for row in self.cached):
            row_set = resolve_row_set(self.writers[writer], recipe_id=recipe_id(recipe))
            assert row_set.n_sequences == sum(row[0] == recipe_id(recipe) for row in self.cached)
            register_row_set(self.writers[writer], row_set)
            self.row_sets.add(row_set.row_set_id)

    @rule(student=st.sampled_from("abc"), writer=WRITERS)
    def promote(self, student: str, writer: int) -> None:
        current = self.line[-1] if self.line else None
        promote(self.writers[writer], student, expected=current, figures={}, run_id="run")
        self.line += [student] if student != current else []

    @precondition(lambda self: len(self.line) > 1)
    @rule(writer=WRITERS)
    def roll_back(self, writer: int) -> None:
        assert roll_back(self.writers[writer], expected=self.line.pop(), run_id="run") == self.line[-1]

    @rule()
    def back_the_catalog_up(self) -> None:
        self._close()
        assert self.location.catalog_file is not None
        path = Path(shutil.copy(self.location.catalog_file, self.directory / "backup.sqlite"))
        self._open()
        self.backup = (self.writers[0].commit_number, path)

    @precondition(lambda self: self.backup is not None)
    @rule(newer_comes_back=st.booleans())
    def put_an_older_catalog_back(self, newer_comes_back: bool) -> None:
        """A writer is refused if anything was committed since; then the newer catalog, or a rebuild, is the lake."""
        assert self.backup is not None and self.location.catalog_file is not None
        number, backup = self.backup
        if number == self.writers[0].commit_number:
            return
        self._close()
        newer = shutil.move(self.location.catalog_file, self.directory / "newer.sqlite")
        shutil.copy(backup, self.location.catalog_file)
        with pytest.raises(IntegrityError, match="older copy"):
            Lake.open(self.location, read_only=False)
        for file in self.location.catalog_file.parent.glob("catalog.sqlite*"):
            file.unlink()
        if newer_comes_back:
            shutil.move(newer, self.location.catalog_file)
        else:
            self._rebuild()
        self._open()

    @rule(writer=WRITERS)
    def verify(self, writer: int) -> None:
        lake = self.writers[writer]
        assert examine(lake, unknown_files(lake)).missing == []
        assert all(not check.problem for check in verify(self.writers[writer]))
        assert all(not check.problem and not check.n_without_hash for check in verify_tables(self.writers[writer]))

    @invariant()
    def every_writer_sees_what_the_model_holds(self) -> None:
        expected = [("document", *row) for row in self.cached] + [("sequence", *row) for row in self.cached]
        expected += [("source", *row) for row in self.sources]
        expected += [("forgotten", doc_id, "") for doc_id in self.forgotten]
        expected += [("row set", row_set_id, "") for row_set_id in self.row_sets]
        expected += [("alias", "current", student) for student in self.line[-1:]]
        numbers = set()
        for lake in self.writers:
            rows = lake.sql(CONTENT).to_pylist()
            assert sorted((row["what"], row["a"], row["b"]) for row in rows) == sorted(expected)
            numbers.add(lake.commit_number)
        (number,) = numbers
        assert number >= self.last_commit
        self.last_commit = number

    def teardown(self) -> None:
        self._close()
        shutil.rmtree(self.directory)


def _settings(examples: int, steps: int) -> settings:
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None)


TestLakeMachine: Callable[..., Any] = LakeMachine.TestCase
TestLakeMachine.settings = _settings(3, 6)  # type: ignore[attr-defined]


# Four times 50 sequences, so that two processes share them.
@pytest.mark.slow
class TestLakeMachineAtLength(LakeMachine.TestCase):  # type: ignore[misc]
    """The same with more and longer sequences."""

    settings = _settings(50, 8)


@pytest.mark.slow
class TestLakeMachineAtLengthAgain(TestLakeMachineAtLength):
    """Other sequences: each class draws its own."""


@pytest.mark.slow
class TestLakeMachineAtLengthAThirdTime(TestLakeMachineAtLength):
    """Other sequences."""


@pytest.mark.slow
class TestLakeMachineAtLengthAFourthTime(TestLakeMachineAtLength):
    """Other sequences."""
