"""Packed batches against plain transformers on each sequence alone, without padding.

In float64, but for what a model itself computes in float32: norms and rotations.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.pipeline.settings.training import TrainingSettings
from logitlake.pipeline.training.distillation_trainer import DistillationTrainer
from logitlake.pipeline.training.model_loss import LossSettings, attach_loss, batch_inputs
from logitlake.pipeline.training.output_layer import take_apart
from logitlake.pipeline.training.packing import check_packing
from logitlake.pipeline.training.train_student import training_arguments
from logitlake.storage.errors import MismatchError
from tests.tiny_architectures import tiny_model

LENGTHS = [[5, 9, 12], [17, 3, 8, 14], [23, 6], [4, 11, 9, 9]]
# Positions by rotation, by a learned table, and by both; experts; windows of attention shorter than a sequence.
PACKED = ["llama", "gpt2", "gpt_neox", "cohere", "qwen3_moe", "deepseek_v3", "mistral", "gemma2", "gemma3_text"]
WINDOWED = {"mistral", "gemma2", "gemma3_text"}
# torch multiplies by experts in float32 at most.
SINGLE = {"qwen3_moe", "deepseek_v3"}
# Recurrent layers and convolutions, alone and beside attention; positions that are those in the line.
MIXING = ["mamba", "bamba", "recurrent_gemma", "lfm2_moe", "qwen3_next", "rwkv", "bloom", "mpt", "opt"]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def lake(memory_lake):
    return memory_lake(LENGTHS, vocab=211)


def model_of(model_type, window=6):
    model = tiny_model(model_type)
    if model_type in WINDOWED:
        model.config.sliding_window = window
    return model if model_type in SINGLE else model.double()


def packed_batches(lake, **options):
    options = {"step_tokens": 10_000, "batch_tokens": 70, "packing": True, "block_tokens": 10_000} | options
    return list(lake.reader(batch_sequences=None, **options))


def reference(model, lake):
    """Mean loss over all targets and its gradients: one forward for each sequence, dense targets, autograd."""
    total, n_targets = torch.zeros((), dtype=torch.float64), 0
    for table in lake.units.values():
        for row in table.to_pylist():
            logprobs = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0].log_softmax(-1)
            for i, (ids, codes) in enumerate(zip(row["target_ids"], row["head_codes"], strict=True)):
                if not ids:
                    continue
                heads = [code / row["levels"] for code in codes]
                tail = (1 - sum(heads)) / max(len(ids) - len(codes), 1)
                probs = heads + [tail] * (len(ids) - len(codes))
                total = total - sum(p * logprobs[i, id_] for p, id_ in zip(probs, ids, strict=True))
                n_targets += 1
    loss = total / n_targets
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@pytest.mark.parametrize("model_type", PACKED)
def test_loss_and_gradients_of_packed_sequences_are_those_of_each_sequence_alone(lake, model_type):
    model = model_of(model_type)
    loss, gradients = reference(model, lake)
    if model_type in WINDOWED:
        other, _ = reference(model_of(model_type, window=1000), lake)
        assert abs(other - loss) > 1e-4, "the window matters here"
    check_packing(take_apart(model), longest=max(map(max, LENGTHS)))
    attach_loss(model, LossSettings())
    batches = packed_batches(lake)
    assert len(batches) > 1 and any(batch.position_ids is not None for batch in batches)
    found = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        part = model(**batch_inputs(batch), divisor=batch.step_targets)
        part.backward()
        found += part.detach()
    rounding = {"rtol": 1e-4, "atol": 1e-5} if model_type in SINGLE else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, loss, **rounding, check_dtype=False)
    assert gradients
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], **rounding, msg=name)


@pytest.mark.parametrize("model_type", MIXING)
def test_a_model_whose_packed_sequences_see_each_other_is_refused(model_type):
    with pytest.raises(MismatchError, match=r"can't be trained on packed sequences: .*set training.packing to false"):
        check_packing(take_apart(tiny_model(model_type)), longest=23)


def of_long_rope(model_type):
    """A model whose rotation changes where a batch has a sequence of more than 32 tokens."""
    config = tiny_model(model_type).config
    if model_type == "phi3":
        factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
        config.original_max_position_embeddings, config.max_position_embeddings = 32, 128
        config.rope_parameters = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    else:
        config.max_position_embeddings = 32
        config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("model_type", ["phi3", "llama"])
def test_a_model_whose_positions_depend_on_the_longest_sequence_is_packed_only_below_that_length(model_type):
    check_packing(take_apart(of_long_rope(model_type)), longest=20)
    with pytest.raises(MismatchError, match="depend on the longest sequence of a batch, here 40 tokens"):
        check_packing(take_apart(of_long_rope(model_type)), longest=40)


def test_a_training_looks_before_it_packs(lake, tmp_path):
    args = training_arguments(TrainingSettings(precision="fp32", device="cpu"), tmp_path, show_progress=False)
    reader = lake.reader(batch_sequences=None, step_tokens=40, packing=True)
    with pytest.raises(MismatchError, match="BambaForCausalLM can't be trained on packed sequences"):
        DistillationTrainer(tiny_model("bamba"), args, reader=reader, loss=LossSettings())


def test_packed_lines_hold_the_same_rows_targets_and_labels(lake):
    """Row by row of the padded batches of the same step."""

    def rows(batches):
        found = {}
        for batch in batches:
            T = batch.input_ids.shape[1]
            for b, line in enumerate(batch.input_ids.tolist()):
                places = list(range(T)) if batch.position_ids is None else batch.position_ids[b].tolist()
                starts = [*(i for i, place in enumerate(places) if place == 0), T]
                for begin, end in pairwise(starts):
                    assert places[begin:end] == list(range(end - begin))
                    low, high = (batch.targets.offsets[b * T + at] for at in (begin, end))
                    if low < high:  # the padding has no target
                        ids, probs = batch.targets.ids[low:high].tolist(), batch.targets.probs[low:high].tolist()
                        labels = batch.next_ids[b, begin:end].tolist()
                        n = max(i for i, label in enumerate(labels) if label >= 0) + 2
                        found[line[begin]] = (line[begin : begin + n], labels[:n], ids, probs)
        return found

    packed = packed_batches(lake)
    assert rows(packed) == rows(packed_batches(lake, packing=False, batch_tokens=1000))
    assert sum(batch.input_ids.numel() for batch in packed) < 1.15 * sum(map(sum, LENGTHS))
    assert all(batch.input_ids.numel() <= 70 for batch in packed)


def test_packed_steps_are_those_of_padded_batches_on_any_number_of_ranks(memory_lake):
    lengths = np.random.default_rng(0).integers(2, 20, 40).tolist()
    lake = memory_lake([lengths])
    size = {"batch_sequences": None, "step_tokens": 60, "batch_tokens": 30}

    def steps(ranks, **more):
        found = []
        for rank in range(ranks):
            sums = [0]
            for batch in lake.reader(**size, rank=rank, world_size=ranks, **more):
                sums[-1] += batch.n_tokens
                if batch.ends_step:
                    sums.append(0)
            found.append(sums)
        return [sum(of_step) for of_step in zip(*found, strict=True)]

    expected = steps(1)
    assert sum(expected) == sum(lengths)
    assert [steps(ranks, packing=True) for ranks in (1, 2, 3)] == [expected] * 3
