"""Left padding, caches and positions are right in models of all kinds: attention, state spaces, hybrids."""

import warnings

import numpy as np
import pytest
import torch

from logitlake.pipeline.traces.sampling import draw, sample_keys, uniforms_at
from logitlake.pipeline.traces.writer import Request, Sampling
from logitlake.pipeline.traces.writers.transformers_writer import TransformersWriter
from tests.tiny_architectures import VOCABULARY, tiny_model

SAMPLING = Sampling(temperature=1.0, top_k=None, top_p=1.0, max_new_tokens=5, seed=3, stop_ids=())
REQUESTS = [
    Request(prompt_id=f"{index:032x}", number=0, prompt_ids=tuple(range(5, 5 + length)))
    for index, length in enumerate((3, 9, 5))
]
ARCHITECTURES = (
    *(
        "llama",
        "gpt2",
        "bloom",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "mistral",
        "falcon",
        "mpt",
        "gptj",
        "gpt_neo",
    ),
    *("gpt_neox", "phi", "phi3", "opt", "olmo2", "stablelm", "starcoder2", "cohere2", "mamba", "mamba2", "bamba"),
    *("jamba", "falcon_h1", "granitemoehybrid", "lfm2", "qwen3_next"),
)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_padded_batch_writes_what_one_forward_for_each_token_gives(model_type: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that are not installed
        model = tiny_model(model_type)
        written = TransformersWriter(model, SAMPLING, vocab_size=VOCABULARY, batch_sequences=8).write(REQUESTS)
        for request, completion in zip(REQUESTS, written, strict=True):
            keys_B2 = sample_keys(SAMPLING.seed, [(request.prompt_id, request.number)])
            for position, (token_id, logprob) in enumerate(zip(completion.ids, completion.logprobs, strict=True)):
                ids = [*request.prompt_ids, *completion.ids[:position]]
                with torch.inference_mode():
                    logits_1V = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1, :VOCABULARY]
                expected_1, logprobs_1 = draw(logits_1V, uniforms_at(keys_B2, position), SAMPLING)
                assert int(expected_1) == token_id
                np.testing.assert_allclose(logprob, float(logprobs_1), atol=1e-4)
