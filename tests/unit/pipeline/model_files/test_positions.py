"""Windows longer than the model's positions are refused before anything is computed."""

import json
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.model_files.positions import check_window, positions_of
from logitlake.storage.errors import SettingsError

CONFIGS: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({"max_position_embeddings": 2048}, 2048),
    ({"n_positions": 1024}, 1024),
    ({"text_config": {"max_position_embeddings": 4096}}, 4096),
    ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
    ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
    # Qwen2.5 with YaRN keeps its own number; Llama 3.1 and Phi-3 write the extended one.
    (
        {"max_position_embeddings": 32768, "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768}},
        131072,
    ),
    (
        {"max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192}},
        131072,
    ),
    ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, 131072),
    ({"max_position_embeddings": 512, "rope_parameters": {"full_attention": {"factor": 8.0}, "sliding": {}}}, 4096),
    ({"max_seq_len": 2048, "attn_config": {"alibi": True}}, None),
    ({"max_position_embeddings": 2048, "alibi": True}, None),
    ({"model_type": "bloom", "seq_length": 2048}, None),
]


@pytest.mark.parametrize(("config", "positions"), CONFIGS)
def test_positions_are_those_of_the_config(config: dict[str, Any], positions: int | None) -> None:
    assert positions_of(config) == positions


def test_a_window_beyond_the_positions_is_refused_with_the_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    check_window(tmp_path, 2048, "the teacher")
    with pytest.raises(SettingsError, match=r"tokenization\.window 2049.* at most 2048"):
        check_window(tmp_path, 2049, "the teacher")


@pytest.mark.parametrize("content", ["", "[]", '{"max_position_embeddings": -1}', '{"rope_scaling": 3}'])
def test_a_config_that_names_no_positions_refuses_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    check_window(tmp_path, 10**6, "the teacher")
