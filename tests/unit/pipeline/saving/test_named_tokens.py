"""The configs of a saved student name the BOS and EOS of the tokenizer that it is saved with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from logitlake.pipeline.saving.named_tokens import write_named_tokens


@pytest.fixture
def directory(tokenizer_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "student"))


@pytest.mark.parametrize(
    ("before", "eos"),
    [(7, 1), (None, 1), ([7, 8], 1), ([7, 1], [7, 1])],
)
def test_eos_is_that_of_the_tokenizer_and_a_list_that_holds_it_stays(directory: Path, before: Any, eos: Any) -> None:
    for name in ("config.json", "generation_config.json"):
        content = {"model_type": "llama", "eos_token_id": before, "pad_token_id": 7, "bos_token_id": 9}
        (directory / name).write_text(json.dumps(content))
    write_named_tokens(directory)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((directory / name).read_text())
        assert (content["eos_token_id"], content["bos_token_id"], content["pad_token_id"]) == (eos, 0, 7)
    assert GenerationConfig.from_pretrained(directory).eos_token_id == eos


def test_what_the_tokenizer_does_not_name_stays(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (directory / "special_tokens_map.json").unlink(missing_ok=True)
    text = json.dumps({"model_type": "llama", "eos_token_id": 7, "bos_token_id": None})
    (directory / "config.json").write_text(text)
    write_named_tokens(directory)
    assert (directory / "config.json").read_text() == text


def test_the_part_that_writes_text_has_them_too(directory: Path) -> None:
    part = {"model_type": "gemma3_text", "eos_token_id": 7}
    (directory / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": part}))
    write_named_tokens(directory)
    assert json.loads((directory / "config.json").read_text())["text_config"] == {**part, "eos_token_id": 1}
