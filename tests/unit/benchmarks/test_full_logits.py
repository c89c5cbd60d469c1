"""Training on full distributions: every position meets the teacher's distribution of that very position."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.full_logits import FullLogitsTrainer, index_rows
from benchmarks.quality_training import memory_reader
from benchmarks.replay import ReplayedTeacher
from logitlake.pipeline.settings.models import TrainingSettings
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.pipeline.training.train_student import training_arguments

V, D, LENGTHS = 60, 16, (9, 5, 7, 6)


def sequences() -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    found = []
    for number, length in enumerate(LENGTHS):
        wanted = np.arange(length) < length - 1
        wanted[:2] = number % 2 == 0
        found.append(TokenSequence(f"d{number}", 0, 0, rng.integers(0, V, length).astype(np.int32), wanted))
    return found


def teacher() -> ReplayedTeacher:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sum(LENGTHS), D, generator=generator).bfloat16().view(torch.uint16).numpy()
    ends = np.cumsum(LENGTHS)
    begins = {s.input_ids.tobytes(): int(e - n) for s, e, n in zip(sequences(), ends, LENGTHS, strict=True)}
    return ReplayedTeacher(hidden, begins, torch.randn(V, D, generator=generator).bfloat16())


def test_loss_is_the_cross_entropy_under_the_teachers_own_distributions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = LlamaForCausalLM(LlamaConfig(vocab_size=V, num_key_value_heads=2, **shape))
    expected, n = 0.0, 0
    for sequence in sequences():
        own = student(torch.from_numpy(sequence.input_ids.astype(np.int64))[None]).logits[0].detach().log_softmax(-1)
        (theirs,) = teacher().forward([sequence.input_ids], [np.ones(len(sequence.input_ids), np.bool_)])
        losses = -(theirs.float().softmax(-1) * own).sum(-1)[torch.from_numpy(sequence.has_target)]
        expected, n = expected + float(losses.sum()), n + len(losses)
    rows = index_rows(sequences(), teacher())
    reader = memory_reader(rows, batch_sequences=4, seed=0)
    settings = TrainingSettings(device="cpu", precision="fp32", batch_sequences=4, schedule="constant")
    args = training_arguments(settings, tmp_path, show_progress=False)
    result = FullLogitsTrainer(student, args, reader=reader, teacher=teacher()).train()
    assert result.training_loss == pytest.approx(expected / n, rel=1e-2)
