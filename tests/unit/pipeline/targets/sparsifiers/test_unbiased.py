"""Monte-Carlo, quantisation included: E[p̂] = p and E[gradient] = full gradient, with a fixed seed.

Draws of the version for devices are compared with them entry by entry.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.on_device import device_draw
from logitlake.pipeline.targets.on_device.padded_targets import coded_targets
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.targets.sparsifiers.scan import Scan

torch.set_num_threads(1)
Dense = Callable[[CodedTargets, int], np.ndarray]
VOCABULARY, DRAWS, ON_DEVICE = 300, 20_000, 1000
UNBIASED = [
    TargetSettings(threshold=0.05),
    TargetSettings(threshold=0.02, levels=16),
    TargetSettings(threshold=0.3),
    TargetSettings(threshold=0.05, temperature=2.0),
    TargetSettings(sparsifier="random", draws=8),
]


def zipf() -> np.ndarray:
    p = 1 / np.arange(1, VOCABULARY + 1) ** 1.3
    return np.random.default_rng(0).permutation(p)


def near_threshold() -> np.ndarray:
    """Masses just above and just below the threshold of 0.05, and a long flat rest."""
    return np.concatenate(
        [np.full(5, 0.0505), np.full(9, 0.0495), np.full(VOCABULARY - 14, 0.3015 / (VOCABULARY - 14))]
    )


def peaked() -> np.ndarray:
    return np.concatenate([[0.97, 0.02], np.full(VOCABULARY - 2, 0.01 / (VOCABULARY - 2))])


SHAPES = {"zipf": zipf, "near_threshold": near_threshold, "peaked": peaked}


def estimates(settings: TargetSettings, weights: np.ndarray, dense: Dense) -> tuple[np.ndarray, np.ndarray]:
    """p at the temperature, and p̂[DRAWS, V] of as many positions that all have this distribution.

    A part of the draws is compared with those of the version for devices: what the mean shows holds for both.
    """
    x_V = torch.from_numpy(np.log(weights)).float()
    sparsifier = make_sparsifier(settings)
    u = uniforms(np.repeat(document_keys(7, ["doc"]), DRAWS, axis=0), np.arange(DRAWS), sparsifier.streams)
    scan = Scan(x_V.expand(DRAWS, -1).contiguous(), settings.temperature)
    targets = sparsifier(Blocks.of(scan), u)
    require_the_same_on_a_device(sparsifier, scan.rows(0, ON_DEVICE), u[:ON_DEVICE], targets)
    return torch.softmax(x_V.double() / settings.temperature, 0).numpy(), dense(targets, VOCABULARY)


def require_the_same_on_a_device(sparsifier: Any, scan: Scan, u: np.ndarray, targets: CodedTargets) -> None:
    draw = device_draw(sparsifier, "cuda")
    assert draw is not None
    tensors = draw(sparsifier, scan, torch.from_numpy(u)).tensors
    drawn = coded_targets(*(tensor.numpy() for tensor in tensors), sparsifier.levels)
    np.testing.assert_array_equal(drawn.ids, targets.ids[: targets.id_offsets[len(u)]])
    np.testing.assert_array_equal(drawn.codes, targets.codes[: targets.code_offsets[len(u)]])


def standard_errors(p: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Of the mean of p̂: from the sample, but at least what p and the largest value allow for ids seldom drawn."""
    seldom = np.where(p * len(estimate) < 50, np.sqrt(p * estimate[estimate < 0.5].max(initial=0.0)), 0.0)
    return np.maximum(estimate.std(axis=0), seldom) / np.sqrt(len(estimate))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    UNBIASED,
    ids=lambda s: f"{s.recipe_part()} {s.levels} {s.temperature}",
)
def test_the_mean_target_is_the_teachers_distribution(settings: TargetSettings, shape: str, dense: Dense) -> None:
    p, estimate = estimates(settings, SHAPES[shape](), dense)
    error = np.abs(estimate.mean(axis=0) - p)
    # 300 ids at once: the largest of 300 normal deviates passes 4.8 once in 2,000 runs. Float32 adds its own.
    assert (error <= 4.8 * standard_errors(p, estimate) + 1e-6).all()


@pytest.mark.parametrize("settings", [UNBIASED[0], UNBIASED[4]], ids=lambda s: s.sparsifier)
def test_the_mean_gradient_is_the_gradient_of_the_whole_distribution(settings: TargetSettings, dense: Dense) -> None:
    """The gradient of Σp̂ · logsumexp(x) - Σ p̂_i x_i, projected on random directions."""
    p, estimate = estimates(settings, zipf(), dense)
    rng = np.random.default_rng(1)
    student = torch.softmax(torch.from_numpy(rng.normal(size=VOCABULARY) * 3), 0).numpy()
    directions = rng.normal(size=(VOCABULARY, 20))
    gradients = (estimate.sum(axis=1, keepdims=True) * student - estimate) @ directions
    full = (student - p) @ directions
    error = np.abs(gradients.mean(axis=0) - full)
    assert (error <= 4.5 * gradients.std(axis=0) / np.sqrt(DRAWS)).all()


def test_the_same_proof_finds_the_bias_of_top_k(dense: Dense) -> None:
    p, estimate = estimates(TargetSettings(sparsifier="top_k", k=12), zipf(), dense)
    estimate /= estimate.sum(axis=1, keepdims=True)
    assert (np.abs(estimate.mean(axis=0) - p) > 5 * standard_errors(p, estimate) + 1e-6).any()


def test_threshold_sampling_has_less_noise_than_random_sampling_at_more_entries(dense: Dense) -> None:
    def noise(settings: TargetSettings) -> tuple[float, float]:
        p, estimate = estimates(settings, zipf(), dense)
        return float(((estimate - p) ** 2).sum(axis=1).mean()), float((estimate > 0).sum(axis=1).mean())

    varopt_noise, varopt_entries = noise(TargetSettings(threshold=0.05))
    random_noise, random_entries = noise(TargetSettings(sparsifier="random", draws=50))
    assert varopt_entries < random_entries
    assert varopt_noise < random_noise
