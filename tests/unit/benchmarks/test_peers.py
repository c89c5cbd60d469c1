"""Published layouts take the bytes that were published, and give back what was put in, to their own precision."""

import numpy as np
import pytest

from benchmarks.peers.distillkit import BUDGET, RECOMMENDED, Layout, distillkit
from benchmarks.peers.megatron import megatron, megatron_raw_bytes
from benchmarks.peers.plain_parquet import plain_parquet
from benchmarks.peers.rs_kd import PUBLISHED_BYTES, draws_for

RNG = np.random.default_rng(0)
IDS = np.argsort(RNG.random((40, 49_152)), axis=1)[:, :128]
LOGPROBS = -np.sort(RNG.exponential(3, (40, 128)), axis=1).astype(np.float32)


def test_distillkit_takes_what_its_readme_says() -> None:
    assert RECOMMENDED.bytes_per_position(49_152) == 312
    assert BUDGET.bytes_per_position(49_152) == 114
    assert RECOMMENDED.bytes_per_position(128_256) == 328


def test_distillkit_gives_exact_ones_in_bfloat16_and_the_others_by_its_fit() -> None:
    straight = np.tile(-0.5 * np.arange(20, dtype=np.float32), (3, 1))
    stored = distillkit(Layout(k=20, exact_k=4, powers=(0, 1)), straight, 49_152)
    assert stored.probs == pytest.approx(np.exp(straight.astype(np.float64)), rel=1e-3)
    assert stored.n_bytes == 3 * (8 + 12 + 40)


def test_megatron_keeps_log_probabilities_to_float16_and_any_id_in_17_bits() -> None:
    stored = megatron(IDS, LOGPROBS)
    assert stored.probs == pytest.approx(np.exp(LOGPROBS.astype(np.float64)), rel=1e-2)
    assert stored.n_bytes / 40 < megatron_raw_bytes(128) == 528


def test_plain_parquet_is_a_whole_file_of_exact_values() -> None:
    stored = plain_parquet(IDS, LOGPROBS, "zstd")
    assert stored.probs == pytest.approx(np.exp(LOGPROBS.astype(np.float64)))
    assert 40 * 128 * 4 < stored.n_bytes < 40 * 128 * 10


def test_rs_kd_draws_as_often_as_gives_12_unique_ids() -> None:
    assert PUBLISHED_BYTES == 36
    assert draws_for({30: 10.0, 40: 11.9, 50: 13.8}) == 40
    with pytest.raises(ValueError, match="unique"):
        draws_for({200: 35.0})
