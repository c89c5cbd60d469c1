"""Drawing as tensor code against drawing in NumPy: the same targets, and nothing that a GPU's host would wait for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.on_device import counter_random as tensor_random
from logitlake.pipeline.targets.on_device import device_draw, slices
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, coded_targets
from logitlake.pipeline.targets.on_device.slices import draw_in_slices
from logitlake.pipeline.targets.sparsifiers import Sparsifier, make_sparsifier
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.targets.sparsifiers.top_k import TopK

torch.set_num_threads(1)
N = 60


def normal(vocabulary: int, scale: float, n: int = N) -> torch.Tensor:
    return scale * torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(vocabulary))


def half_impossible() -> torch.Tensor:
    x = normal(400, 2.0)
    x[:, ::2] = -torch.inf
    return x


def one_hot() -> torch.Tensor:
    x = torch.full((N, 1000), -torch.inf)
    x[torch.arange(N), torch.arange(N) * 13] = 5.0
    return x


def all_but_a_trace() -> torch.Tensor:
    x = torch.full((N, 700), -40.0)
    x[:, 4], x[:, 600] = 0.0, -1.0
    return x


def two_values() -> torch.Tensor:
    """Ties everywhere, among the most probable ids and around the last one of any k."""
    return torch.where(normal(1500, 1.0) > 1.0, 1.0, -2.0)


LOGITS: dict[str, Callable[[], torch.Tensor]] = {
    "one id": lambda: normal(1, 1.0),
    "few ids": lambda: normal(5, 2.0),
    "one block": lambda: normal(128, 2.0),
    "sharp": lambda: normal(1300, 5.0),
    "flat": lambda: normal(1280, 0.5),
    "float16": lambda: normal(1300, 3.0).half(),
    "bfloat16": lambda: normal(1300, 3.0).bfloat16(),
    "ids past 2^17": lambda: normal(150_001, 3.0, 6),
    "not contiguous": lambda: normal(1300, 3.0)[:, :1280],
    "uniform": lambda: torch.zeros(N, 2560),
    "uniform, V no multiple": lambda: torch.zeros(N, 1000),
    "half impossible": half_impossible,
    "one-hot": one_hot,
    "all but a trace": all_but_a_trace,
    "two values": two_values,
    "twenty at the threshold": lambda: torch.log(torch.tensor([1.0] * 20 + [0.0] * 300)).repeat(N, 1),
    "no position": lambda: torch.zeros(0, 300),
}
SETTINGS = {
    "varopt": TargetSettings(),
    "varopt 0.3": TargetSettings(threshold=0.3),
    "varopt 0.01, 16 levels, T 2": TargetSettings(threshold=0.01, levels=16, temperature=2.0),
    "random": TargetSettings(sparsifier="random"),
    "random 3, T 0.5": TargetSettings(sparsifier="random", draws=3, temperature=0.5),
    "top_k": TargetSettings(sparsifier="top_k"),
    "top_k 7, 100 levels": TargetSettings(sparsifier="top_k", k=7, levels=100),
    "top_p": TargetSettings(sparsifier="top_p"),
    "top_p 0.5 of 40": TargetSettings(sparsifier="top_p", p=0.5, max_k=40, temperature=1.5),
}


def draws(n: int, streams: int) -> np.ndarray:
    return uniforms(np.repeat(document_keys(0, ["doc"]), n, axis=0), np.arange(n), streams)


def tensor_draw(sparsifier: Sparsifier, scan: Scan, uniforms_PS: torch.Tensor) -> PaddedTargets:
    draw = device_draw(sparsifier, "cuda")
    assert draw is not None
    return draw(sparsifier, scan, uniforms_PS)


def on_host(targets: PaddedTargets, levels: int) -> CodedTargets:
    return coded_targets(*(tensor.numpy() for tensor in targets.tensors), levels)


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_draw_what_numpy_draws(name: str, logits: str) -> None:
    x, settings = LOGITS[logits](), SETTINGS[name]
    sparsifier, scan = make_sparsifier(settings), Scan(x, settings.temperature)
    u = draws(len(x), sparsifier.streams)
    expected = sparsifier(Blocks.of(scan), u)
    found = on_host(tensor_draw(sparsifier, scan, torch.from_numpy(u)), sparsifier.levels)
    for field in ("id_offsets", "ids", "code_offsets", "codes"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), err_msg=field)
    assert found.levels == expected.levels


@pytest.mark.parametrize("name", ["varopt", "random", "top_k", "top_p"])
def test_a_chunk_drawn_in_slices_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, sparsifier = normal(1300, 3.0), make_sparsifier(SETTINGS[name])
    scan, u = Scan(x), torch.from_numpy(draws(N, sparsifier.streams))
    draw = device_draw(sparsifier, "cuda")
    assert draw is not None
    whole = draw_in_slices(draw, sparsifier, scan, u)
    monkeypatch.setattr(slices, "_MOST_WEIGHTS", 1)
    for one, other in zip(draw_in_slices(draw, sparsifier, scan, u).tensors, whole.tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["varopt", "random", "top_k", "top_p"])
def test_rows_that_are_no_distribution_stay_within_the_tables(name: str) -> None:
    """On a GPU an index past the end ends the process' use of it, before anybody reads that logits were not finite."""
    x, sparsifier = normal(1300, 3.0), make_sparsifier(SETTINGS[name])
    x[3], x[5, 7], x[9] = torch.nan, torch.inf, -torch.inf
    scan = Scan(x)
    tensor_draw(sparsifier, scan, torch.from_numpy(draws(N, sparsifier.streams)))
    assert not scan.is_finite


@pytest.mark.parametrize("streams", [1, 2, 50])
def test_uniforms_are_the_same_bits(streams: int) -> None:
    keys = document_keys(7, [f"doc {i}" for i in range(200)])
    positions = np.random.default_rng(0).integers(0, 1 << 40, 200)
    found = tensor_random.uniforms(torch.from_numpy(keys.view(np.int64)), torch.from_numpy(positions), streams)
    np.testing.assert_array_equal(found.numpy(), uniforms(keys, positions, streams))


def test_a_subclass_that_draws_otherwise_draws_on_the_host() -> None:
    """It inherits the name of the version for devices, which draws as its parent does."""

    class Mine(TopK):
        def __call__(self, blocks: BlockSums, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
            return super().__call__(blocks, 1 - uniforms_PS)

    assert device_draw(TopK(k=5, levels=100), "cuda") is not None
    assert device_draw(Mine(k=5, levels=100), "cuda") is None
