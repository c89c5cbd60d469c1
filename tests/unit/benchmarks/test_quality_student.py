"""The benchmark's student starts with the teacher's idea of which ids are alike, and with nothing else."""

import pytest
import torch

from benchmarks.quality_student import narrow_student, principal_components


def test_principal_components_keep_as_much_of_the_variance_as_any_so_many_directions():
    matrix = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 13.0)
    kept = principal_components(matrix, 5)
    singular = torch.linalg.svdvals(matrix - matrix.mean(0))
    assert float(kept.square().sum()) == pytest.approx(float(singular[:5].square().sum()), rel=1e-4)


def test_the_student_is_tied_small_and_the_same_for_the_same_seed():
    teacher = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    one, same, other = (narrow_student(teacher, seed=seed, width=8, layers=1) for seed in (0, 0, 1))
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    for (name, own), theirs in zip(one.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(own, theirs), name
    assert not torch.equal(one.model.layers[0].mlp.up_proj.weight, other.model.layers[0].mlp.up_proj.weight)
    embedding = one.get_input_embeddings().weight.detach()
    assert float(embedding.square().mean().sqrt()) == pytest.approx(one.config.initializer_range, rel=1e-4)
