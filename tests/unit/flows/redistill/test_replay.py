"""Forgetting is measured: two domains, the second learned after the first, with a replay of old rows and without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from logitlake.pipeline.evaluation.evaluate import evaluate, held_out_rows, load_student
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.settings.models import StudentSettings, TrainingSettings
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.training.train_student import TrainedStudent, train_student
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import document_id
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.increments import increment_for, mixed_rows
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.students.registry import register_student
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

TOLERANCE = 0.15
LENGTH = 24
DOMAINS = {"old": 10, "new": 110}
WORDS = 40


def domain_rows(corpus: str, n_documents: int, recipe: dict[str, Any]) -> pa.Table:
    """Documents in which each word is followed by one certain other word; the teacher gives it 58/64."""
    rng = np.random.default_rng(DOMAINS[corpus])
    after = rng.permutation(WORDS)
    rows = []
    for number in range(n_documents):
        words = [int(rng.integers(WORDS))]
        while len(words) < LENGTH:
            words.append(int(after[words[-1]]))
        ids = [DOMAINS[corpus] + word for word in words]
        tails = rng.integers(0, WORDS, LENGTH) + DOMAINS[corpus]
        rows.append(
            {
                "recipe_id": id_of_recipe(recipe),
                "doc_id": document_id(f"{corpus} {number}"),
                "unit_id": "",
                "corpus": corpus,
                "source": f"{number}",
                "window_index": 0,
                "start": 0,
                "n_tokens": LENGTH,
                "n_targets": LENGTH - 1,
                "levels": 64,
                "input_ids": ids,
                "target_ids": [[ids[i + 1], int(tails[i])] for i in range(LENGTH - 1)] + [[]],
                "head_codes": [[58]] * (LENGTH - 1) + [[]],
                "entropy_codes": [16] * (LENGTH - 1) + [None],
                "nll_codes": [3] * (LENGTH - 1) + [None],
                "mean_entropy": 0.5,
                "mean_nll": 0.1,
                "checksum": "",
            }
        )
    return pa.Table.from_pylist(rows, SEQUENCES)


class TwoDomains:
    """A lake in which a student of the old domain is at home, and the new one has just arrived."""

    def __init__(self, directory: Path, tiny_config: dict[str, object], tokenizer_dir: Path) -> None:
        tokenizer = TextTokenizer.load(tokenizer_dir)
        self.recipe = {
            "teacher": {"name": "table", "weights": "w" * 32, "adapter": None},
            "tokenizer": tokenizer.fingerprint,
            "vocabulary": tokenizer.vocab_size,
            "chat": {"template": None, "targets": "assistant"},
            "sparsifier": {"name": "varopt"},
            "temperature": 1.0,
        }
        self.directory = directory
        self.location = LakeLocation.resolve(directory / "lake")
        self.lake = Lake.create(self.location, held_out_salt="salt", held_out_share=0.2)
        self.recipe_id = register_recipe(self.lake, self.recipe)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**tiny_config)).save_pretrained(directory / "model")
        AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(directory / "model")
        self._commit("old")
        self.first = self.train(directory / "model", None)
        self._commit("new")

    def _commit(self, corpus: str) -> None:
        rows = domain_rows(corpus, 60, self.recipe)
        commit_unit(self.lake, rows, recipe=self.recipe, run_id="run", seconds=1.0)

    def train(self, parent: Path, where: str | None, *, epochs: int = 20) -> TrainedStudent:
        rows = resolve_row_set(self.lake, recipe_id=self.recipe_id, where=where)
        student = train_student(
            StudentSettings(source="checkpoint", model=str(parent)),
            TrainingSettings(
                output=self.directory / rows.row_set_id,
                batch_sequences=4,
                precision="fp32",
                device="cpu",
                learning_rate=1e-2,
                epochs=epochs,
            ),
            row_set=rows,
            fetch=lake_fetch(self.lake, rows),
            recipe=self.recipe,
            show_progress=False,
        )
        register_row_set(self.lake, rows)
        register_student(
            self.lake,
            student_id=student.student_id,
            parent_id=student.parent_id,
            row_set_id=rows.row_set_id,
            run_id="run",
            directory=str(student.directory),
            settings={},
            metrics={},
        )
        return student

    def loss(self, student: TrainedStudent, corpus: str) -> float:
        """Cross-entropy on held-out documents of a domain, in nats."""
        rows = resolve_row_set(self.lake, recipe_id=self.recipe_id, where=f"corpus = '{corpus}'", held_out=True)
        tables = held_out_rows(rows, lake_fetch(self.lake, rows))
        found = evaluate({"it": load_student(student.directory)}, tables, self.recipe, autocast=False)
        return float(found.students["it"].cross_entropy)


@pytest.fixture
def domains(
    tmp_path: Path, tiny_config: dict[str, object], tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TwoDomains]:
    torch.set_num_threads(1)
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    made = TwoDomains(tmp_path, tiny_config, tokenizer_dir)
    yield made
    made.lake.close()


@pytest.mark.slow
def test_with_a_replay_the_old_domain_stays_within_the_tolerance_and_without_it_does_not(domains: TwoDomains) -> None:
    night = increment_for(domains.lake, domains.first.student_id, domains.recipe_id)
    before = domains.loss(domains.first, "old")
    after = {}
    for share in (0.0, 0.5):
        student = domains.train(domains.first.directory, mixed_rows(night, share))
        after[share] = (domains.loss(student, "old"), domains.loss(student, "new"))
    assert before < 0.5, "the old domain was learned"
    assert domains.loss(domains.first, "new") > 2, "the new one was not known"
    assert max(after[0.0][1], after[0.5][1]) < 0.6, "either way the new domain is learned"
    assert after[0.5][0] < before + TOLERANCE
    assert after[0.0][0] > before + TOLERANCE
