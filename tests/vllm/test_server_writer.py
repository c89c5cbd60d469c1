"""Completions of a real vLLM server, against transformers on the same files; `generate` that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.flows.settings import location_of
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import Config, TeacherSettings
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.traces.writer import Completion, Request, Sampling
from logitlake.pipeline.traces.writers import server_writer, transformers_writer
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from logitlake.storage.lake.lake import Lake
from tests.tiny_lake import append_documents
from tests.tiny_models import write_served_teacher
from tests.vllm.environment import NEEDS_VLLM
from tests.vllm.served import vllm_server

pytestmark = [pytest.mark.slow, NEEDS_VLLM]

PROMPTS = [(5, 9, 40, 17), (10,), tuple(range(20, 60))]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served-writer")
    write_served_teacher(directory)
    # What a server would take as its defaults; nothing of it may be used.
    defaults = {"temperature": 0.1, "top_k": 2, "repetition_penalty": 3.0, "do_sample": True, "eos_token_id": 1}
    (directory / "generation_config.json").write_bytes(orjson.dumps(defaults))
    return directory


@pytest.fixture(scope="module")
def url(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    with vllm_server(teacher, log, name="tiny", window=128) as url:
        yield url


def write(teacher: Path, url: str, engine: str, requests: list[Request], **changes: Any) -> list[Completion]:
    given = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "max_new_tokens": 24, "seed": 3, "stop_ids": (1, 7)}
    section = {"url": url, "model": "tiny"}
    settings = TeacherSettings.model_validate(
        {"model": str(teacher), "device": "cpu", "dtype": "float32", "engine": "server", "server": section}
    )
    module = {"server": server_writer, "transformers": transformers_writer}[engine]
    writer = module.load_writer(
        settings,
        resolve_teacher(settings),
        Sampling(**{**given, **changes}),
        vocab_size=TextTokenizer.load(teacher).vocab_size,
        batch_sequences=4,
    )
    if engine == "transformers":
        return writer.write(requests)
    with closing(writer):
        return writer.write(requests)


def requests_of(samples: int = 1) -> list[Request]:
    return [
        Request(prompt_id=f"{p:032x}", number=number, prompt_ids=ids)
        for p, ids in enumerate(PROMPTS)
        for number in range(samples)
    ]


def test_greedy_completions_and_their_log_probs_are_those_of_transformers(teacher: Path, url: str) -> None:
    ours, theirs = (write(teacher, url, of, requests_of(), temperature=0.0) for of in ("server", "transformers"))
    assert [completion.ids for completion in ours] == [completion.ids for completion in theirs]
    assert [completion.finished for completion in ours] == [completion.finished for completion in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_log_probs_of_samples_are_those_of_the_whole_distribution_at_temperature_1(teacher: Path, url: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    requests = requests_of(3)
    together = write(teacher, url, "server", requests, temperature=1.3, top_k=20)
    assert [write(teacher, url, "server", [r], temperature=1.3, top_k=20)[0].ids for r in requests[:3]] == [
        completion.ids for completion in together[:3]
    ]
    assert len({completion.ids for completion in together}) == len(requests)
    for request, completion in zip(requests, together, strict=True):
        ids = torch.tensor([*request.prompt_ids, *completion.ids])[None]
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(request.prompt_ids) - 1 + i, id_]) for i, id_ in enumerate(completion.ids)]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
        assert completion.finished == (completion.ids[-1] in (1, 7))
        assert not {1, 7} & set(completion.ids[:-1])


def test_a_killed_generate_goes_on_and_writes_nothing_twice(teacher: Path, url: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    append_documents(prompts, 0, 12)
    raw = {
        "lake": {"path": str(tmp_path / "lake")},
        "teacher": {"model": str(teacher), "engine": "server", "server": {"url": url, "model": "tiny"}},
        "generate": {
            "engine": "server",
            "prompts": {"name": "prompts", "kind": "jsonl", "path": str(prompts)},
            "samples": 2,
            "max_new_tokens": 8,
            "unit_prompts": 3,
        },
    }
    settings_file = tmp_path / "logitlake.yaml"
    settings_file.write_bytes(orjson.dumps(raw))
    killed = _generate(settings_file, {ENVIRONMENT_VARIABLE: "unit-computed:3"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert _samples(raw) == 12
    again = _generate(settings_file, {})
    assert again.returncode == 0, again.stderr
    report = orjson.loads(again.stdout)
    assert (report["samples_stored"], report["n_traces"]) == (12, 12)
    assert _samples(raw) == 24


def _samples(raw: dict[str, Any]) -> int:
    with Lake.open(location_of(Config.model_validate(raw))) as lake:
        return int(lake.row("SELECT count(DISTINCT (prompt_id, sample_number)) AS n FROM store.traces")["n"])


def _generate(settings_file: Path, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    home = settings_file.parent
    return subprocess.run(
        [sys.executable, "-m", "logitlake", "generate", "--config", str(settings_file), "--format", "json"],
        env={
            **os.environ,
            "HOME": str(home),
            "LOGITLAKE_CACHE": str(home / "cache"),
            "PYTHONPATH": str(Path.cwd()),
            **variables,
        },
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
