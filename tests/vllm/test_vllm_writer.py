"""Completions that vLLM writes, against transformers on the same files. Needs the environment of `make vllm`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.traces.writer import Request, Sampling, Writer
from logitlake.pipeline.traces.writers import transformers_writer, vllm_writer
from logitlake.storage.errors import LogitlakeError
from tests.tiny_models import TINY_VOCAB
from tests.vllm.environment import ENVIRONMENT, NEEDS_VLLM, OPTIONS, PYTHON, write_teacher

pytestmark = [pytest.mark.slow, NEEDS_VLLM]

PROMPTS = [(5, 9, 40, 17), (100,), tuple(range(20, 90))]


def sampling_of(**changes: object) -> Sampling:
    given = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "max_new_tokens": 24, "seed": 3, "stop_ids": (1, 7)}
    return Sampling(**{**given, **changes})  # type: ignore[arg-type]


def requests_of(prompts: Sequence[tuple[int, ...]], samples: int = 1) -> list[Request]:
    return [
        Request(prompt_id=f"{p:032x}", number=number, prompt_ids=ids)
        for p, ids in enumerate(prompts)
        for number in range(samples)
    ]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("writer"))


def load(teacher: Path, engine: str, sampling: Sampling) -> Writer:
    section = {"python": str(PYTHON), "options": OPTIONS}
    chosen = {"model": str(teacher), "device": "cpu", "dtype": "float32", "vllm": section}
    settings = TeacherSettings.model_validate(chosen)
    module = {"vllm": vllm_writer, "transformers": transformers_writer}[engine]
    files = resolve_teacher(settings)
    return module.load_writer(settings, files, sampling, vocab_size=TINY_VOCAB, batch_sequences=4)


@pytest.fixture(scope="module")
def sampler(teacher: Path) -> Iterator[Writer]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield load(teacher, "vllm", sampling_of())


def test_greedy_completions_and_their_log_probs_are_those_of_transformers(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    greedy = sampling_of(temperature=0.0)
    requests = requests_of(PROMPTS)
    ours, theirs = (load(teacher, engine, greedy).write(requests) for engine in ("vllm", "transformers"))
    assert [completion.ids for completion in ours] == [completion.ids for completion in theirs]
    assert [completion.finished for completion in ours] == [completion.finished for completion in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_a_sample_is_the_same_whatever_is_beside_it_and_another_number_is_another_sample(sampler: Writer) -> None:
    requests = requests_of(PROMPTS, samples=3)
    together = sampler.write(requests)
    alone = [sampler.write([request])[0] for request in requests]
    assert [completion.ids for completion in together] == [completion.ids for completion in alone]
    assert len({completion.ids for completion in together}) == len(requests)
    for completion in together:
        stops = [i in (1, 7) for i in completion.ids]
        assert completion.finished == stops[-1]
        assert not any(stops[:-1])
        assert completion.finished or len(completion.ids) == 24


def test_log_probs_are_those_of_the_whole_distribution_at_temperature_1(sampler: Writer, teacher: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    for request, completion in zip(requests_of(PROMPTS), sampler.write(requests_of(PROMPTS)), strict=True):
        ids = torch.tensor([*request.prompt_ids, *completion.ids])[None]
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(request.prompt_ids) - 1 + i, id_]) for i, id_ in enumerate(completion.ids)]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_first_tokens_are_drawn_from_the_distribution(sampler: Writer, teacher: Path) -> None:
    """A chi-squared statistic over the ids that 2,000 samples should have at least 10 times."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    n = 2000
    with torch.inference_mode():
        p_V = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1).double().numpy()
    counts = Counter(completion.ids[0] for completion in sampler.write(requests_of(PROMPTS[:1], samples=n)))
    frequent = np.flatnonzero(n * p_V >= 10)
    observed = np.array([counts[i] for i in frequent.tolist()] + [n - sum(counts[i] for i in frequent.tolist())])
    expected = n * np.append(p_V[frequent], 1 - p_V[frequent].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert len(frequent) > 10
    # Mean len, variance 2 len: six standard deviations.
    assert statistic < len(frequent) + 6 * np.sqrt(2 * len(frequent))


def test_a_killed_vllm_is_named_and_the_next_unit_starts_it_again(sampler: Writer) -> None:
    requests = requests_of(PROMPTS)
    before = sampler.write(requests)
    process = sampler._process  # type: ignore[attr-defined]
    vllm = psutil.Process(process._process.pid)
    processes = [vllm, *vllm.children(recursive=True)]
    vllm.kill()
    with pytest.raises(LogitlakeError, match="vLLM's process ended"):
        sampler.write(requests)
    _, alive = psutil.wait_procs(processes, 60)
    assert alive == []
    assert [completion.ids for completion in sampler.write(requests)] == [completion.ids for completion in before]
