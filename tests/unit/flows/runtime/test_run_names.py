"""What a run is called on Prefect's web page, and what its artifact shows first."""

import json
from pathlib import Path

import pytest

from logitlake.flows.reports import CaptureReport
from logitlake.flows.runtime.artifacts import named_rows
from logitlake.flows.runtime.run_names import model_label


@pytest.mark.parametrize(
    ("model", "gguf_file", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, "SmolLM2-135M-Instruct"),
        ("/cache/models--Qwen--Qwen3-8B/snapshots/0123456789abcdef0123", None, "Qwen3-8B"),
        ("/cache/models--gpt2/snapshots/0123456789abcdef0123/", None, "gpt2"),
        ("/models/SmolLM2.Q4_1.gguf", None, "SmolLM2.Q4_1"),
        ("/models/folder", "SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
        ("/models/no-such-folder/", None, "no-such-folder"),
    ],
)
def test_a_model_is_named_as_people_know_it(model: str, gguf_file: str | None, name: str) -> None:
    assert model_label(model, gguf_file) == name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"_name_or_path": "Qwen/Qwen3-8B"}, "Qwen3-8B"),
        ({"_name_or_path": "/somebody/else/checkpoint-7"}, "teacher"),
        ({}, "teacher"),
        ([], "teacher"),
    ],
)
def test_a_directory_is_named_after_the_model_that_its_config_names(tmp_path: Path, config: object, name: str) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config))
    assert model_label(str(tmp_path / "teacher")) == name


def test_an_artifact_begins_with_what_matters_and_leaves_out_what_is_empty() -> None:
    report = CaptureReport(
        run_id="r", recipe_id="q", teacher="t", n_documents=3, n_tokens=100, n_bytes=2_000_000, teacher_seconds=120
    )
    rows = named_rows(report.as_record())
    assert [(row["name"], row["value"]) for row in rows[:2]] == [("documents", 3), ("tokens", 100)]
    names = [row["name"] for row in rows]
    assert names.index("teacher time") < 10 and names.index("took") < names.index("run id")
    assert "stopped because" not in names
    assert dict(zip(names, [row["value"] for row in rows], strict=True))["bytes"] == "2.00 MB"
    assert len(names) == len(set(names))
