"""The peers of training learn from the very positions that the cache has a target for."""

import torch

from benchmarks.training_peers import labelled
from logitlake.pipeline.reading.batches import NO_LABEL, SparseTargets, TargetBatch


def test_labels_stand_where_a_language_model_shifts_them_from() -> None:
    input_ids = torch.tensor([[5, 6, 7, 8]])
    next_ids = torch.tensor([[6, NO_LABEL, 8, NO_LABEL]])
    targets = SparseTargets(
        offsets=torch.tensor([0, 1, 1, 2, 2]), ids=torch.tensor([6, 8]), probs=torch.tensor([1.0, 1.0])
    )
    batch = TargetBatch(
        input_ids=input_ids, next_ids=next_ids, targets=targets, n_tokens=4, n_targets=2, step_targets=2
    )
    labels = labelled(batch)["labels"]
    assert labels.tolist() == [[NO_LABEL, 6, NO_LABEL, 8]]
