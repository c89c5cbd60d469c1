"""README.md says only what is true: its examples are run as they stand, and what it names exists."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.sequences import SEQUENCES
from logitlake.storage.sql.session import query
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary

README = Path("README.md").read_text(encoding="utf-8")
VOCABULARY = 30
RECIPE: dict[str, Any] = {
    "teacher": {"name": "tiny"},
    "tokenizer": "t",
    "sparsifier": {"name": "varopt", "threshold": 0.05},
    "temperature": 1.0,
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def lake(tmp_path, monkeypatch, make_rows) -> LakeLocation:
    """A lake at ./lake with random targets."""
    rows = make_rows([300, 300, 200, 400], vocab=VOCABULARY, recipe_id=id_of_recipe(RECIPE)).to_pylist()
    for ids in rows[0]["target_ids"]:
        ids[:2] = ids[1::-1]  # somewhere the teacher preferred another token than the real one
    location = LakeLocation.resolve(tmp_path / "lake")
    with Lake.create(location, held_out_salt="s", held_out_share=0.0) as lake:
        register_recipe(lake, RECIPE)
        register_vocabulary(lake, "t", [f"t{number}" for number in range(VOCABULARY)], {0})
        commit_unit(lake, pa.Table.from_pylist(rows, SEQUENCES), recipe=RECIPE, run_id="run", seconds=1.0)
    monkeypatch.chdir(tmp_path)
    return location


def test_the_training_loop_learns_as_it_stands(lake):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.num_attention_heads = config.num_key_value_heads = 4
    names: dict[str, Any] = {"torch": torch, "model": LlamaForCausalLM(config)}
    [example] = _blocks("python")
    losses = []
    for _ in range(8):
        exec(compile(example, "README.md", "exec"), names)
        losses.append(names["loss"].item())
    assert losses[-1] < losses[0]


def test_every_question_has_an_answer(lake):
    [block] = _blocks("sql")
    questions = [question for question in block.split(";") if question.strip()]
    assert len(questions) == 3
    assert all(query(lake, question).num_rows > 0 for question in questions)


def test_the_settings_are_valid():
    [block] = _blocks("yaml")
    assert Config.model_validate(yaml.safe_load(block)).corpora[0].name == "notes"


def test_every_file_and_folder_that_is_named_exists():
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(re.findall(r"`(tests/[\w./-]+)`", README))
    assert [name for name in sorted(named) if not Path(name).exists()] == []


def test_every_make_target_and_command_that_is_named_exists():
    targets = re.findall(r"^(\w[\w-]*):", Path("Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", README, flags=re.MULTILINE)) <= set(targets)
    commands = {path.stem for path in Path("flows/cli/commands").glob("*.py")}
    assert set(re.findall(r"^logitlake (\w+) .*[#\"]", README, flags=re.MULTILINE)) <= commands
