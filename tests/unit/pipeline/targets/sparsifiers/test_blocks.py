import numpy as np
import pytest
import torch

from logitlake.pipeline.targets.sparsifiers import scan as scan_module
from logitlake.pipeline.targets.sparsifiers.blocks import BLOCK, Blocks
from logitlake.storage.errors import SettingsError

torch.set_num_threads(1)


@pytest.fixture(autouse=True, params=["torch", "numba"])
def one_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds for both versions of the pass over the logits."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(scan_module, "_fused_scan", lambda: None)


VOCABULARIES = [1, 5, BLOCK, 3 * BLOCK, 3 * BLOCK + 17]


def logits(n: int, vocabulary: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + vocabulary)
    return (torch.randn(n, vocabulary, generator=generator) * scale).to(dtype)


def exact(x: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    return torch.log_softmax(x.double() / temperature, dim=1).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_block_sums_entropy_and_surprise_are_those_of_a_softmax_in_double(
    vocabulary: int, dtype: torch.dtype, temperature: float
) -> None:
    x = logits(9, vocabulary, dtype)
    logprobs = exact(x, temperature)
    padded = np.zeros((9, -(-vocabulary // BLOCK) * BLOCK))
    padded[:, :vocabulary] = np.exp(logprobs)
    found = Blocks(x, temperature)
    np.testing.assert_allclose(
        found.sums_PB / found.totals_P[:, None], padded.reshape(9, -1, BLOCK).sum(-1), rtol=2e-5, atol=1e-12
    )
    np.testing.assert_allclose(found.entropy(), -(np.exp(logprobs) * logprobs).sum(1), atol=1e-4)
    ids = np.arange(9) % vocabulary
    np.testing.assert_allclose(found.negative_logprobs(ids), -logprobs[np.arange(9), ids], atol=1e-4)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_look_inside_gives_the_probabilities_of_the_block_and_none_past_the_vocabulary(vocabulary: int) -> None:
    x = logits(4, vocabulary)
    found = Blocks(x)
    rows = np.repeat(np.arange(4), found.n_blocks)
    blocks = np.tile(np.arange(found.n_blocks), 4)
    weights = found.look(rows, blocks).reshape(4, -1) / found.totals_P[:, None]
    np.testing.assert_allclose(weights[:, :vocabulary], np.exp(exact(x)), rtol=1e-4, atol=1e-12)
    assert (weights[:, vocabulary:] == 0).all()


def test_the_length_of_a_slice_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = logits(50, 300, torch.bfloat16)
    whole = Blocks(x)
    monkeypatch.setattr(scan_module, "_CPU_SLICE", 900)
    sliced = Blocks(x)
    np.testing.assert_array_equal(whole.sums_PB, sliced.sums_PB)
    np.testing.assert_allclose(whole.entropy(), sliced.entropy(), atol=1e-6)


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    x = logits(50, 300, torch.bfloat16)
    alone = Blocks(x)
    monkeypatch.setattr(scan_module, "_WORTH_THREADS", 0)
    torch.set_num_threads(3)
    try:
        with torch.inference_mode():
            shared = Blocks(x)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(alone.sums_PB, shared.sums_PB)
    np.testing.assert_array_equal(alone.entropy(), shared.entropy())


def test_logits_of_minus_infinity_have_no_probability_and_spoil_nothing() -> None:
    x = logits(5, 300)
    x[:, 100:] = -torch.inf
    x[1, :] = -torch.inf
    x[1, 7] = 3.0
    found = Blocks(x)
    logprobs = exact(x[:, :100])
    entropy = -(np.exp(logprobs) * np.where(np.isfinite(logprobs), logprobs, 0)).sum(1)
    np.testing.assert_allclose(found.entropy(), entropy, atol=1e-4)
    assert found.entropy()[1] < 1e-6
    assert np.isinf(found.negative_logprobs(np.full(5, 200))).all()
    assert (found.sums_PB[:, 1:] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_no_distribution_is_refused_with_advice(bad: float) -> None:
    x = logits(3, 200)
    x[1] = bad
    with pytest.raises(SettingsError, match="float32"):
        Blocks(x)


def test_one_hot_and_uniform_rows_have_entropies_zero_and_log_v() -> None:
    x = torch.full((2, 300), -200.0)
    x[0, 11] = 0.0
    np.testing.assert_allclose(Blocks(x).entropy(), [0, np.log(300)], atol=1e-5)


def test_what_is_left_is_added_up_and_not_subtracted() -> None:
    """Next to a head of mass 1 - 1e-12, the difference in float32 would be 0; and where nothing is left it is 0."""
    x = torch.full((2, 400), -torch.inf)
    x[:, 3] = 0.0
    x[0, 5], x[0, 390] = -28.0, -28.0
    found = Blocks(x)
    left = found.rest(np.array([0, 1]), np.array([3, 3]))
    np.testing.assert_allclose(left[0], 2 * np.exp(-28.0), rtol=1e-5)
    assert left[1] == 0


@pytest.mark.parametrize("error", [ImportError("a newer NumPy"), OSError(28, "No space left on device"), KeyError("x")])
def test_a_numba_that_fails_is_told_and_done_without(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise error

    pytest.importorskip("numba")
    monkeypatch.undo()
    expected = Blocks(logits(3, 300)).entropy()
    monkeypatch.setattr(scan_module, "import_module", fail)
    scan_module._fused_scan.cache_clear()
    try:
        np.testing.assert_allclose(Blocks(logits(3, 300)).entropy(), expected, rtol=1e-5)
    finally:
        scan_module._fused_scan.cache_clear()
    assert "numba is installed but can't be used" in caplog.text


@pytest.mark.parametrize("largest", [1e30, 2.5e37])
def test_logits_that_overflow_are_refused_and_give_no_number(largest: float) -> None:
    x = logits(1, 300)
    x[0, 7] = largest
    try:
        found = Blocks(x)
    except SettingsError:
        return
    assert np.isfinite(found.entropy()).all()
