"""What runs on an accelerator, against the same on the CPU. `benchmarks/on_gpu.sh` runs it where there is one.

LOGITLAKE_TEST_DEVICE names another device; with `cpu` the tests compare the CPU with itself.
"""

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from logitlake.pipeline.capture.drawing import Draw, start_drawing
from logitlake.pipeline.reading.batches import SparseTargets
from logitlake.pipeline.settings.target import TargetSettings
from logitlake.pipeline.targets.on_device import device_draw
from logitlake.pipeline.targets.on_device.padded_targets import coded_targets
from logitlake.pipeline.targets.on_device.slices import draw_in_slices
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.losses import sparse_divergence
from tests.tiny_models import TINY_VOCAB, make_tiny_llama

DEVICE = torch.device(os.environ.get("LOGITLAKE_TEST_DEVICE") or resolve_device("auto"))
POSITIONS, VOCABULARY = 257, 50_001

pytestmark = pytest.mark.skipif(
    DEVICE.type == "cpu" and "LOGITLAKE_TEST_DEVICE" not in os.environ, reason="this machine has no accelerator"
)


def rows_of(targets: CodedTargets) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and codes of each position."""
    for p in range(len(targets.id_offsets) - 1):
        ids, codes = targets.id_offsets[p : p + 2], targets.code_offsets[p : p + 2]
        yield targets.ids[ids[0] : ids[1]].tolist(), targets.codes[codes[0] : codes[1]].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sparsifier", ["varopt", "random", "top_k", "top_p"])
def test_draws_on_the_device_are_those_of_the_cpu(sparsifier: str, dtype: torch.dtype) -> None:
    """Sums are added in another order there: a draw may move to the next id, in one position of a hundred at most."""
    logits_PV = (3 * torch.randn(POSITIONS, VOCABULARY, generator=torch.Generator().manual_seed(0))).to(dtype)
    drawer = make_sparsifier(TargetSettings(sparsifier=sparsifier))
    uniforms_PS = np.random.default_rng(0).random((POSITIONS, drawer.streams))
    here = list(rows_of(drawer(Blocks(logits_PV, 1.5), uniforms_PS)))
    scan = Scan(logits_PV.to(DEVICE), 1.5)
    there = list(rows_of(drawer(Blocks.of(scan), uniforms_PS)))
    draw = device_draw(drawer, "cuda")
    assert draw is not None
    padded = draw_in_slices(draw, drawer, scan, torch.from_numpy(uniforms_PS).to(DEVICE))
    drawn = list(rows_of(coded_targets(*(tensor.cpu().numpy() for tensor in padded.tensors), drawer.levels)))
    # From the same block sums.
    assert drawn == there
    assert sum(one != other for one, other in zip(here, there, strict=True)) <= POSITIONS / 100


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA tells of a host that waits")
def test_between_two_forwards_the_host_never_waits() -> None:
    settings = [TargetSettings(sparsifier=name) for name in ("varopt", "random", "top_k", "top_p")]
    draws = [Draw(make_sparsifier(s), s.temperature, s.seed) for s in settings]
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, POSITIONS + 1).astype(np.int32)
    has_target = np.arange(len(ids)) < POSITIONS
    batch = [TokenSequence(doc_id="doc", window=0, start=0, input_ids=ids, has_target=has_target)]
    engine = FixedLogits(3 * torch.randn(POSITIONS, VOCABULARY, generator=torch.Generator().manual_seed(0)))
    expected, expected_statistics = start_drawing(engine, batch, draws).result()
    engine.logits_PV = engine.logits_PV.to(DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = start_drawing(engine, batch, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    targets, statistics = pending.result()
    for one, other in zip(targets, expected, strict=True):
        differing = sum(a != b for a, b in zip(rows_of(one), rows_of(other), strict=True))
        assert differing <= POSITIONS / 100
    np.testing.assert_allclose(statistics.entropy, expected_statistics.entropy, rtol=1e-4)
    np.testing.assert_allclose(statistics.nll, expected_statistics.nll, rtol=1e-4)


class FixedLogits:
    """An engine that gives the logits that it has, in chunks of 100 positions."""

    vocab_size = VOCABULARY
    description: ClassVar[dict[str, str]] = {}

    def __init__(self, logits_PV: torch.Tensor) -> None:
        self.logits_PV = logits_PV

    @property
    def device(self) -> torch.device:
        return self.logits_PV.device

    def forward(self, input_ids: Any, has_target: Any) -> Iterator[torch.Tensor]:
        yield from self.logits_PV.split(100)


def test_statistics_on_the_device_are_those_of_the_cpu() -> None:
    logits_PV = 3 * torch.randn(POSITIONS, VOCABULARY, generator=torch.Generator().manual_seed(1))
    ids_P = np.arange(POSITIONS)
    here, there = Blocks(logits_PV), Blocks(logits_PV.to(DEVICE))
    np.testing.assert_allclose(there.entropy(), here.entropy(), rtol=1e-4)
    np.testing.assert_allclose(there.negative_logprobs(ids_P), here.negative_logprobs(ids_P), rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_the_teacher_on_the_device_gives_the_log_probs_of_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, TINY_VOCAB, length).astype(np.int32) for length in (40, 7, 100)]
    masks = [np.ones(len(i), bool) for i in ids]
    logprobs = [
        torch.cat([chunk.float().cpu() for chunk in engine.forward(ids, masks)]).log_softmax(-1)
        for engine in (
            TransformersEngine(make_tiny_llama(), vocab_size=TINY_VOCAB),
            TransformersEngine(make_tiny_llama().to(DEVICE, dtype), vocab_size=TINY_VOCAB),
        )
    ]
    torch.testing.assert_close(logprobs[1], logprobs[0], rtol=0, atol=tolerance)


def test_the_loss_and_its_gradients_on_the_device_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(64, 32, generator=generator)
    weight_VD = torch.randn(TINY_VOCAB, 32, generator=generator)
    ids_E = torch.randint(0, TINY_VOCAB, (256,), generator=generator)

    def targets_on(device: torch.device) -> SparseTargets:
        offsets, probs = torch.arange(0, 65) * 4, torch.full((256,), 0.25)
        return SparseTargets(offsets=offsets.to(device), ids=ids_E.to(device), probs=probs.to(device), ghost=None)

    results = []
    for device in (torch.device("cpu"), DEVICE):
        hidden, weight = (t.detach().clone().to(device).requires_grad_() for t in (hidden_ND, weight_VD))
        loss = sparse_divergence(hidden, weight, targets_on(device))
        loss.backward()
        assert hidden.grad is not None and weight.grad is not None
        results.append([loss.detach().cpu(), hidden.grad.cpu(), weight.grad.cpu()])
    for there, here in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
