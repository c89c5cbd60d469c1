"""A lake against a plain Python model: any order of commits, repeats, compaction, loss of the catalog."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logitlake.storage.identity import document_id, recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.lake.schema import SEQUENCES
from logitlake.storage.lake.tables import NAME
from logitlake.storage.upkeep.rebuild import rebuild
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

RECIPES: list[dict[str, Any]] = [
    {"teacher": {"name": "tiny"}, "tokenizer": "t", "sparsifier": {"name": "varopt"}, "temperature": temperature}
    for temperature in (1.0, 2.0)
]


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


class LakeMachine(RuleBasedStateMachine):
    """The model is a set of (recipe, document) pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.location = LakeLocation.resolve(self.directory / "lake")
        self.lake = Lake.create(self.location, held_out_salt="s", held_out_share=0.0)
        for recipe in RECIPES:
            register_recipe(self.lake, recipe)
        self.model: set[tuple[str, str]] = set()

    @rule(names=st.sets(st.integers(0, 9), min_size=1, max_size=4), recipe=st.sampled_from(RECIPES))
    def commit(self, names: set[int], recipe: dict[str, Any]) -> None:
        new = {(recipe_id(recipe), document_id(str(name))) for name in names} - self.model
        receipt = commit_unit(self.lake, _rows(sorted(names), recipe), recipe=recipe, run_id="run", seconds=1.0)
        assert receipt.n_documents == len(new)
        self.model |= new

    @rule()
    def merge(self) -> None:
        self.lake.sql(f"CALL ducklake_merge_adjacent_files('{NAME}')")

    @precondition(lambda self: self.model)
    @rule()
    def lose_the_catalog(self) -> None:
        self.lake.close()
        for file in self.location.state_directory.glob("catalog.sqlite*"):
            file.unlink()
        rebuild(self.location)
        self.lake = Lake.open(self.location, read_only=False)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        rows = self.lake.sql("SELECT recipe_id, doc_id FROM sequences").to_pylist()
        assert sorted((row["recipe_id"], row["doc_id"]) for row in rows) == sorted(self.model)
        documents = self.lake.sql("SELECT recipe_id, doc_id FROM documents").to_pylist()
        assert len(documents) == len(self.model)

    def teardown(self) -> None:
        self.lake.close()
        shutil.rmtree(self.directory)


TestLakeMachine = LakeMachine.TestCase
TestLakeMachine.settings = settings(max_examples=4, stateful_step_count=6, deadline=None)
