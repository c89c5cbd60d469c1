"""Drawing from a batch: on a device nothing waits, and what arrives is what the host would have drawn."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from logitlake.pipeline.capture import drawing
from logitlake.pipeline.capture.drawing import Draw, start_drawing
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets import on_device
from logitlake.pipeline.targets.on_device.transfer import Transfer, pack
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.block_sums import BlockSums
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.targets.sparsifiers.top_k import TopK
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.errors import SettingsError

torch.set_num_threads(1)
VOCABULARY = 1000
DRAWS = [
    Draw(make_sparsifier(settings), settings.temperature, settings.seed)
    for settings in (
        TargetSettings(),
        TargetSettings(threshold=0.1, temperature=2.0, seed=3),
        TargetSettings(sparsifier="random", draws=20),
        TargetSettings(sparsifier="top_k", k=50),
        TargetSettings(sparsifier="top_p", max_k=64),
    )
]


class PlainTopK:
    """A sparsifier of a plug-in, which knows nothing of devices."""

    levels, streams = 65535, 1

    def __call__(self, blocks: BlockSums, uniforms_PS: np.ndarray) -> CodedTargets:
        return TopK(k=50, levels=self.levels)(blocks, uniforms_PS)


class ChunkedEngine:
    """Random logits, in chunks of 7 positions."""

    vocab_size = VOCABULARY
    device = torch.device("cpu")
    description: ClassVar[dict[str, str]] = {}

    def forward(self, input_ids: Any, has_target: Any) -> Iterator[torch.Tensor]:
        yield from self.logits(sum(int(mask.sum()) for mask in has_target)).split(7)

    def logits(self, n: int) -> torch.Tensor:
        return 3 * torch.randn(n, VOCABULARY, generator=torch.Generator().manual_seed(n))


class EngineWithoutData(ChunkedEngine):
    """The same on a device whose tensors have a shape and nothing else: what reads them raises."""

    device = torch.device("meta")

    def logits(self, n: int) -> torch.Tensor:
        return torch.empty(n, VOCABULARY, dtype=torch.bfloat16, device=self.device)


class Crossings(TorchDispatchMode):
    """Names of the operations that read or write on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        # A number from Python goes along with the call as a CPU tensor without dimensions.
        if len({tensor.device.type for tensor in tensors if tensor.dim()}) > 1:
            self.names.append(str(func))
        return out


def batch() -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            doc_id=f"doc {i}",
            window=0,
            start=10 * i,
            input_ids=rng.integers(0, VOCABULARY, n).astype(np.int32),
            has_target=(np.arange(n) > 2) & (np.arange(n) < n - 1),
        )
        for i, n in enumerate((30, 4, 17))
    ]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets a batch be drawn without data, as on a GPU. The sizes in bytes of the copies to the host that it began."""
    sizes: list[int] = []
    monkeypatch.setattr(on_device, "DEVICE_TYPES", {"meta"})
    monkeypatch.setattr(
        drawing, "to_device", lambda array, device: torch.empty(array.shape, dtype=torch.int64, device=device)
    )
    monkeypatch.setattr(drawing, "Transfer", lambda tensors: sizes.append(len(pack(tensors)[0])))
    return sizes


def test_between_two_forwards_the_host_never_waits_for_the_gpu(copies: list[int]) -> None:
    """What depends on data, such as to read a count or to choose by a mask, raises where there is none."""
    with Crossings() as crossings:
        start_drawing(EngineWithoutData(), batch(), DRAWS)
    assert crossings.names == []
    assert len(copies) == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.cpu(),
        lambda x: x.sum().item(),
        lambda x: torch.nonzero(x),
        lambda x: x[x > 0],
        lambda x: torch.unique(x),
        lambda x: bool((x > 0).all()),
        lambda x: torch.repeat_interleave(x[0].long()),
        lambda x: x + torch.ones(VOCABULARY).to("meta"),
    ],
)
def test_what_makes_the_host_wait_is_detected(wait: Any) -> None:
    with Crossings() as crossings:
        x = torch.empty(3, VOCABULARY, device="meta")
        try:
            wait(x)
        except (RuntimeError, NotImplementedError) as error:
            crossings.names.append(str(error))
    assert crossings.names


def test_what_a_device_draws_is_what_the_host_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [*DRAWS, Draw(PlainTopK(), 1.0, 0)]
    expected, expected_statistics = start_drawing(ChunkedEngine(), batch(), draws).result()
    monkeypatch.setattr(on_device, "DEVICE_TYPES", {"cpu"})
    targets, statistics = start_drawing(ChunkedEngine(), batch(), draws).result()
    for one, other in zip(targets, expected, strict=True):
        for field in ("id_offsets", "ids", "code_offsets", "codes"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    np.testing.assert_array_equal(statistics.entropy, expected_statistics.entropy)
    np.testing.assert_array_equal(statistics.nll, expected_statistics.nll)


def test_a_device_without_float64_is_asked_for_none() -> None:
    """Tensors without data can't be copied to the host: the message shows that the copy comes before the float64."""
    with pytest.raises(NotImplementedError, match="copy out of meta"):
        Scan(torch.empty(3, VOCABULARY, device="meta"))


def test_only_what_has_a_version_for_devices_and_takes_little_room_is_drawn_there() -> None:
    assert all(on_device.device_draw(draw.sparsifier, "cuda") for draw in DRAWS)
    assert not any(on_device.device_draw(draw.sparsifier, "cpu") for draw in DRAWS)
    assert on_device.device_draw(PlainTopK(), "cuda") is None
    assert on_device.device_draw(make_sparsifier(TargetSettings(threshold=1e-4)), "cuda") is None


@pytest.mark.parametrize("device_types", [set(), {"cpu"}])
def test_a_batch_without_a_target_has_no_targets(device_types: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "DEVICE_TYPES", device_types)
    monkeypatch.setattr(ChunkedEngine, "forward", lambda self, input_ids, has_target: iter(()))
    ids = np.arange(5, dtype=np.int32)
    empty = [TokenSequence(doc_id="doc", window=0, start=0, input_ids=ids, has_target=np.zeros(5, bool))]
    targets, statistics = start_drawing(ChunkedEngine(), empty, DRAWS).result()
    assert [len(coded.ids) for coded in targets] == [0] * len(DRAWS)
    assert len(statistics.nll) == 0


def test_logits_that_are_not_finite_are_refused_once_they_have_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(ChunkedEngine, "logits", lambda self, n: torch.full((n, VOCABULARY), torch.nan))
    pending = start_drawing(ChunkedEngine(), batch(), DRAWS)
    with pytest.raises(SettingsError, match="float32"):
        pending.result()


def test_a_transfer_brings_every_array_as_it_was() -> None:
    tensors = [
        torch.arange(3, dtype=torch.float64) / 7,
        torch.arange(6, dtype=torch.int32).view(2, 3).t(),
        torch.zeros(2, 0, dtype=torch.int32),
        torch.tensor([True, False, True]),
    ]
    for array, tensor in zip(Transfer(tensors).wait(), tensors, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
        assert array.dtype == tensor.numpy().dtype
