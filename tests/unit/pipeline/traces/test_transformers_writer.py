"""What the writer writes is what the model says, token by token, in any batch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from logitlake.pipeline.traces.sampling import draw, sample_keys, uniforms_at
from logitlake.pipeline.traces.writer import Completion, Request, Sampling
from logitlake.pipeline.traces.writers.transformers_writer import TransformersWriter
from logitlake.storage.errors import MismatchError
from tests.tiny_models import TINY_VOCAB, make_tiny_llama

SAMPLING = Sampling(temperature=0.9, top_k=50, top_p=0.95, max_new_tokens=12, seed=7, stop_ids=(1, 5, 9, 13, 17, 21))
REQUESTS = [
    Request(prompt_id=f"{index:032x}", number=number, prompt_ids=tuple(range(2, 2 + length)))
    for index, length in enumerate((1, 3, 9, 4, 6))
    for number in range(2)
]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_tiny_llama(hidden_size=32, initializer_range=0.5)


def slow(model: Any, request: Request, sampling: Sampling = SAMPLING) -> Completion:
    """One token after the other, without cache, padding and batch."""
    keys_B2 = sample_keys(sampling.seed, [(request.prompt_id, request.number)])
    ids, logprobs = list(request.prompt_ids), []
    for position in range(sampling.max_new_tokens):
        with torch.inference_mode():
            logits_1V = model(input_ids=torch.tensor([ids])).logits[:, -1, :TINY_VOCAB]
        id_1, logprob_1 = draw(logits_1V, uniforms_at(keys_B2, position), sampling)
        ids.append(int(id_1))
        logprobs.append(float(logprob_1))
        if ids[-1] in sampling.stop_ids:
            break
    written = tuple(ids[len(request.prompt_ids) :])
    return Completion(ids=written, logprobs=tuple(logprobs), finished=written[-1] in sampling.stop_ids)


@pytest.mark.parametrize("batch_sequences", [1, 4, 16])
def test_a_completion_is_that_of_one_forward_for_each_token_in_any_batch(model: Any, batch_sequences: int) -> None:
    writer = TransformersWriter(model, SAMPLING, vocab_size=TINY_VOCAB, batch_sequences=batch_sequences)
    written = writer.write(REQUESTS)
    expected = [slow(model, request) for request in REQUESTS]
    assert [(c.ids, c.finished) for c in written] == [(c.ids, c.finished) for c in expected]
    for found, wanted in zip(written, expected, strict=True):
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)
    assert {c.finished for c in written} == {True, False}, "both ends occur in this test"


def test_settings_that_lie_beside_the_model_do_not_change_what_it_writes(model: Any) -> None:
    expected = TransformersWriter(model, SAMPLING, vocab_size=TINY_VOCAB, batch_sequences=4).write(REQUESTS)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 9
    model.generation_config.suppress_tokens = [3, 4, 6]
    again = TransformersWriter(model, SAMPLING, vocab_size=TINY_VOCAB, batch_sequences=4).write(REQUESTS)
    assert again == expected


def test_without_stop_ids_every_completion_has_the_full_length(model: Any) -> None:
    sampling = replace(SAMPLING, stop_ids=())
    written = TransformersWriter(model, sampling, vocab_size=TINY_VOCAB, batch_sequences=4).write(REQUESTS[:3])
    assert [(len(c.ids), c.finished) for c in written] == [(12, False)] * 3


def test_rows_beyond_the_tokenizer_are_never_drawn(model: Any) -> None:
    sampling = replace(SAMPLING, stop_ids=(), top_k=None, top_p=1.0, temperature=50.0)
    written = TransformersWriter(model, sampling, vocab_size=10, batch_sequences=4).write(REQUESTS)
    assert max(max(c.ids) for c in written) < 10


def test_a_model_with_fewer_rows_than_the_tokenizer_is_refused(model: Any) -> None:
    with pytest.raises(MismatchError, match="found 211"):
        TransformersWriter(model, SAMPLING, vocab_size=300, batch_sequences=4).write(REQUESTS)


def test_samples_of_one_prompt_differ(model: Any) -> None:
    requests = [replace(REQUESTS[0], number=number) for number in range(8)]
    written = TransformersWriter(model, SAMPLING, vocab_size=TINY_VOCAB, batch_sequences=8).write(requests)
    assert len({c.ids for c in written}) > 4
