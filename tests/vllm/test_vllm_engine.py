"""Teachers that vLLM runs, against plain transformers on the same files. Needs the environment of `make vllm`."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.varopt import VarOptSettings
from logitlake.pipeline.teachers.engines.vllm.engine import VllmEngine, load_teacher
from logitlake.pipeline.teachers.probe import probed
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.errors import TeacherUnavailableError
from tests.tiny_models import TINY_VOCAB
from tests.vllm.environment import ENVIRONMENT, NEEDS_VLLM, OPTIONS, PYTHON, write_teacher

pytestmark = [pytest.mark.slow, NEEDS_VLLM]

TAU = 0.1
Batch = tuple[list[np.ndarray], list[np.ndarray]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def settings_of(directory: Path, dtype: str = "float32", **options: Any) -> TeacherSettings:
    section = {"python": str(PYTHON), "options": OPTIONS | options}
    chosen = {"model": str(directory), "engine": "vllm", "device": "cpu", "dtype": dtype, "vllm": section}
    return TeacherSettings.model_validate(chosen)


def load(directory: Path, dtype: str = "float32", **options: Any) -> VllmEngine:
    settings = settings_of(directory, dtype, **options)
    return load_teacher(settings, resolve_teacher(settings), vocab_size=TINY_VOCAB, window=256)


def batch_of(lengths: Sequence[int], seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, TINY_VOCAB, length).astype(np.int32) for length in lengths]
    return ids, [rng.random(length) < 0.7 for length in lengths]


def all_chunks(engine: VllmEngine, batch: Batch) -> torch.Tensor:
    return torch.cat([chunk.clone() for chunk in engine.forward(*batch)]).float()


def logits_of(model: Any, batch: Batch) -> torch.Tensor:
    """The whole model on each sequence by itself, at the positions with a target."""
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0][torch.from_numpy(wanted)]
            for ids, wanted in zip(*batch, strict=True)
        ]
    return torch.cat(rows).float()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def engine(teacher: Path) -> Iterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        # Prompts are longer than what one step of vLLM takes.
        yield load(teacher, enable_chunked_prefill=True, max_num_batched_tokens=64, max_num_seqs=8)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen3", {}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("gpt_neox", {"tie_word_embeddings": False}),
        ("mixtral", {}),
    ],
)
def test_log_probs_of_architectures_are_those_of_transformers(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Soft cap, scales, shared matrices, renamed tensors and experts."""
    directory = write_teacher(tmp_path, model_type, **changes)
    batch = batch_of((5, 100, 64, 128))
    expected = logits_of(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(), batch)
    assert expected.std() > 0.05, "the logits tell something"
    found = all_chunks(load(directory), batch)
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=5e-4)


def test_a_teacher_on_two_ranks_gives_the_log_probs_of_one_and_leaves_no_process(teacher: Path) -> None:
    """Tensor parallel: each rank is a process with half of every matrix."""
    batch = batch_of((5, 100, 64, 128))
    expected = logits_of(AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval(), batch)
    engine = load(teacher, tensor_parallel_size=2)
    found = all_chunks(engine, batch)
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=5e-4)
    assert engine._process is not None
    vllm = psutil.Process(engine._process._process.pid)
    ranks = vllm.children(recursive=True)
    assert len(ranks) >= 2
    engine._process.end()
    _, alive = psutil.wait_procs([vllm, *ranks], 60)
    assert alive == []


def test_prompts_of_any_length_in_any_batch_give_the_same_log_probs(engine: VllmEngine, teacher: Path) -> None:
    """Chunked prefill splits them at 64 tokens; the probe finds a function of each document alone."""
    assert probed(engine, window=200, name="tiny") is engine
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    for lengths in ((1,), (256,), (63, 64, 65), (7, 200, 3, 150, 99)):
        batch = batch_of(lengths, seed=len(lengths))
        batch[1][0][0] = True
        found, expected = all_chunks(engine, batch), logits_of(model, batch)
        torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=5e-4)


def test_targets_are_unbiased_end_to_end(engine: VllmEngine, teacher: Path) -> None:
    """The mean of the drawn targets of many seeds is transformers' distribution, within their noise."""
    ids = batch_of((12, 9))[0]
    sequences = [TokenSequence(f"d{n}", 0, 0, i, np.arange(len(i)) < len(i) - 1) for n, i in enumerate(ids)]
    batch = [s.input_ids for s in sequences], [s.has_target for s in sequences]
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    p_PV = logits_of(model, batch).softmax(-1).double().numpy()
    sparsifier = make_sparsifier(VarOptSettings(threshold=TAU))
    draws = []
    for seed in range(400):
        (targets,), statistics = batch_targets(engine, sequences, [sparsifier], temperature=1.0, seed=seed)
        draws.append(dense(targets))
    mean_PV, variance_PV = np.mean(draws, axis=0), np.var(draws, axis=0)
    # A tail is drawn seldom: its variance is that of its law, and an id that should have been drawn less than 10 times
    # says nothing.
    z_PV = (mean_PV - p_PV) / np.sqrt(np.where(p_PV < TAU, p_PV * TAU, variance_PV) / len(draws))
    z = z_PV[p_PV * len(draws) / TAU > 10]
    assert len(z) > 500
    assert abs(z).max() < 6
    assert 0.5 < (z**2).mean() < 1.5
    entropy_P = -(p_PV * np.log(p_PV)).sum(axis=1)
    np.testing.assert_allclose(statistics.entropy, entropy_P, atol=1e-3)


def test_announced_batches_are_answered_in_order_and_others_are_dropped(engine: VllmEngine) -> None:
    batches = [batch_of((20 + number, 5), seed=number) for number in range(6)]
    expected = [all_chunks(engine, batch) for batch in batches]
    engine.prefetch(batches)
    first = all_chunks(engine, batches[0])
    # Batch 3 was not next: what was announced is forgotten, also answers that are under way.
    again = all_chunks(engine, batches[3])
    engine.prefetch(batches)
    found = [all_chunks(engine, batch) for batch in batches]
    for one, other in zip([first, again, *found], [expected[0], expected[3], *expected], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_killed_vllm_is_named_and_the_next_batch_starts_it_again(engine: VllmEngine) -> None:
    batch = batch_of((30,))
    expected = all_chunks(engine, batch)
    process = engine._process
    assert process is not None
    vllm = psutil.Process(process._process.pid)
    processes = [vllm, *vllm.children(recursive=True)]
    vllm.kill()
    with pytest.raises(TeacherUnavailableError, match="vLLM's process ended"):
        all_chunks(engine, batch)
    _, alive = psutil.wait_procs(processes, 60)
    assert alive == []
    torch.testing.assert_close(all_chunks(engine, batch), expected, rtol=1e-4, atol=1e-4)
    # A unit begins with an announcement.
    assert engine._process is not None
    psutil.Process(engine._process._process.pid).kill()
    with pytest.raises(TeacherUnavailableError, match="vLLM's process ended"):
        engine.prefetch([batch])
        all_chunks(engine, batch)
    engine.prefetch([batch])
    torch.testing.assert_close(all_chunks(engine, batch), expected, rtol=1e-4, atol=1e-4)


def test_an_error_of_vllm_is_told_and_the_next_batch_starts_it_again(engine: VllmEngine) -> None:
    with pytest.raises(TeacherUnavailableError, match=r"vLLM failed: .*257"):
        all_chunks(engine, batch_of((257,)))
    assert len(all_chunks(engine, batch_of((4,)))) == batch_of((4,))[1][0].sum()


@pytest.mark.parametrize("whole", [False, True], ids=["logitlake", "logitlake-and-vllm"])
def test_no_process_of_vllm_outlives_one_that_was_killed(teacher: Path, whole: bool) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.vllm.test_vllm_engine import load\n"
        "engine = load(Path(sys.argv[1]))\nprint(engine._process._process.pid, flush=True)\ninput()\n"
    )
    command = [sys.executable, "-c", program, str(teacher)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        vllm = psutil.Process(int(parent.stdout.readline()))
        processes = [vllm, *vllm.children(recursive=True)]
        parent.kill()
        if whole:
            vllm.kill()
    _, alive = psutil.wait_procs(processes, 60)
    assert alive == []


def dense(targets: Any) -> np.ndarray:
    """Coded targets as probabilities `[P, V]`."""
    rows = np.zeros((len(targets.id_offsets) - 1, TINY_VOCAB))
    for row, p_V in enumerate(rows):
        ids = targets.ids[targets.id_offsets[row] : targets.id_offsets[row + 1]]
        codes = targets.codes[targets.code_offsets[row] : targets.code_offsets[row + 1]]
        np.add.at(p_V, ids[: len(codes)], codes / targets.levels)
        if n_tails := len(ids) - len(codes):
            np.add.at(p_V, ids[len(codes) :], (1 - codes.sum() / targets.levels) / n_tails)
    return rows
