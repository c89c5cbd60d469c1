"""Traces by a server: its lake, and what a server that goes away costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitlake.flows.generate.preparation import prepare_writer
from logitlake.flows.generate.run import GenerateRun
from logitlake.flows.reports import GenerateReport
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError, TeacherUnavailableError
from logitlake.storage.lake.lake import Lake
from tests.bigram_server import BigramServer, Reply
from tests.tiny_lake import append_documents

N_PROMPTS = 9


@pytest.fixture
def bigram(tokenizer_dir: Path) -> Iterator[BigramServer]:
    tokenizer = TextTokenizer.load(tokenizer_dir)
    logits_VV = np.random.default_rng(0).standard_normal((tokenizer.vocab_size, tokenizer.vocab_size))
    with BigramServer(logits_VV, tokenizer.backend).running() as server:
        yield server


@pytest.fixture
def raw(tmp_path: Path, tokenizer_dir: Path, bigram: BigramServer) -> dict[str, Any]:
    """One completion for each prompt, three prompts to a unit; the weights are on the server alone."""
    append_documents(tmp_path / "prompts.jsonl", 0, N_PROMPTS)
    server = {"url": bigram.url, "model": "bigram", "max_retries": 0}
    prompts = {"name": "prompts", "kind": "jsonl", "path": str(tmp_path / "prompts.jsonl")}
    return {
        "lake": {"path": str(tmp_path / "lake")},
        "teacher": {"model": str(tokenizer_dir), "engine": "server", "server": server},
        "generate": {"engine": "server", "prompts": prompts, "max_new_tokens": 6, "unit_prompts": 3},
    }


def generate_all(config: Config) -> GenerateReport:
    with GenerateRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
    return run.report


def test_what_was_committed_before_the_server_went_away_is_not_written_again(
    raw: dict[str, Any], bigram: BigramServer
) -> None:
    config = Config.model_validate(raw)
    with GenerateRun(config) as run, pytest.raises(TeacherUnavailableError, match="still answers 503"):
        for number in run.units():
            if number == 2:
                bigram.mishaps = [Reply(503)] * 3
            run.commit(run.compute(number))
    bigram.mishaps = []
    asked = len(bigram.requests)
    second = generate_all(config)
    assert (second.samples_stored, second.n_traces) == (6, 3)
    written = [body for path, body in bigram.requests[asked:] if body.get("max_tokens") == 6]
    assert len(written) == 3
    with Lake.open(location_of(config)) as lake:
        rows = lake.sql("SELECT prompt_ids, completion_ids, logprobs FROM store.traces").to_pylist()
    assert len(rows) == N_PROMPTS
    for row in rows:
        before = [row["prompt_ids"][-1], *row["completion_ids"][:-1]]
        np.testing.assert_allclose(row["logprobs"], bigram.logprobs_VV[before, row["completion_ids"]], atol=1e-6)
    assert generate_all(config).n_traces == 0
    assert sum(body.get("max_tokens") == 6 for _, body in bigram.requests[asked:]) == 3


def test_the_sampling_names_the_server_and_not_a_dtype_of_this_machine(raw: dict[str, Any]) -> None:
    writer = prepare_writer(Config.model_validate(raw)).recipe.record["writer"]
    assert (writer["engine"], writer["dtype"], writer["name"]) == ("server", "as served", "bigram")


def test_a_writer_that_the_server_does_not_have_is_refused(raw: dict[str, Any], tokenizer_dir: Path) -> None:
    student = raw | {"generate": raw["generate"] | {"writer": str(tokenizer_dir)}}
    with pytest.raises(SettingsError, match="let transformers or vllm run a student"):
        prepare_writer(Config.model_validate(student))
    elsewhere = raw | {"teacher": {"model": str(tokenizer_dir)}}
    with pytest.raises(SettingsError, match=r"set teacher\.server\.url"):
        prepare_writer(Config.model_validate(elsewhere))
