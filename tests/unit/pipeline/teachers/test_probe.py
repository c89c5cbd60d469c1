"""A target depends on its own document only, or the teacher is refused or computes documents alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine
from logitlake.pipeline.teachers.probe import OneByOne, probed
from logitlake.storage.errors import MismatchError, SettingsError

VOCABULARY = 300
WINDOW = 64
HALF = WINDOW // 2
Model = Callable[..., LlamaForCausalLM]


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}


def longrope_model() -> Any:
    """A Phi-3 whose RoPE has other factors for every sequence of a batch once one is longer than half the window."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        original_max_position_embeddings=HALF,
        initializer_range=0.3,
        pad_token_id=0,
        rope_parameters=rope("longrope", short_factor=[1.0] * 4, long_factor=[8.0] * 4, factor=2.0),
    )
    return Phi3ForCausalLM(config)


def alone(model: Any, ids: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0, :, :VOCABULARY]


@pytest.mark.parametrize(
    "parameters",
    [
        rope("default"),
        rope("linear"),
        rope("yarn", original_max_position_embeddings=HALF),
        rope("llama3", original_max_position_embeddings=HALF, low_freq_factor=1.0, high_freq_factor=4.0),
    ],
    ids=lambda parameters: parameters["rope_type"],
)
def test_scalings_that_depend_on_nothing_else_are_taken_as_they_are(tiny_model: Model, parameters: Any) -> None:
    engine = TransformersEngine(tiny_model(rope_parameters=parameters), vocab_size=VOCABULARY)
    assert probed(engine, window=WINDOW, name="tiny") is engine


def test_a_scaling_by_the_longest_sequence_of_the_batch_computes_documents_alone() -> None:
    model = longrope_model()
    engine = probed(TransformersEngine(model, vocab_size=VOCABULARY), window=WINDOW, name="tiny")
    assert isinstance(engine, OneByOne)
    assert "one sequence" in engine.description["batches"]
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, VOCABULARY, n).astype(np.int32) for n in (WINDOW, 9, HALF + 1, HALF)]
    found = torch.cat([chunk.clone() for chunk in engine.forward(ids, [np.ones(len(i), bool) for i in ids])])
    torch.testing.assert_close(found, torch.cat([alone(model, i) for i in ids]), rtol=1e-4, atol=1e-4)


def test_within_the_positions_that_it_was_trained_with_the_same_model_is_batched() -> None:
    engine = TransformersEngine(longrope_model(), vocab_size=VOCABULARY)
    assert probed(engine, window=HALF, name="tiny") is engine


def test_a_scaling_that_remembers_longer_sequences_is_refused(tiny_model: Model) -> None:
    model = tiny_model(rope_parameters=rope("dynamic"), max_position_embeddings=HALF)
    engine = TransformersEngine(model, vocab_size=VOCABULARY)
    with pytest.raises(MismatchError, match=r"tiny: the logits of a document changed .*tokenization\.window"):
        probed(engine, window=WINDOW, name="tiny")
    assert probed(engine, window=HALF, name="tiny") is engine


def test_a_bidirectional_model_is_refused() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    engine = TransformersEngine(BertLMHeadModel(config), vocab_size=VOCABULARY)
    with pytest.raises(MismatchError, match=r"later token .*expected a causal language model"):
        probed(engine, window=WINDOW, name="tiny")
    config.is_decoder = True
    engine = TransformersEngine(BertLMHeadModel(config), vocab_size=VOCABULARY)
    assert probed(engine, window=WINDOW, name="tiny") is engine


def test_a_window_that_can_not_be_computed_is_refused(tiny_model: Model) -> None:
    engine = TransformersEngine(
        BertLMHeadModel(
            BertConfig(
                vocab_size=VOCABULARY,
                is_decoder=True,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=HALF,
            )
        ),
        vocab_size=VOCABULARY,
    )
    with pytest.raises(SettingsError, match=r"can't compute a window of 64 tokens"):
        probed(engine, window=WINDOW, name="tiny")


def test_rounding_in_bfloat16_is_no_other_function(tiny_model: Model) -> None:
    engine = TransformersEngine(tiny_model().to(torch.bfloat16), vocab_size=VOCABULARY)
    assert probed(engine, window=WINDOW, name="tiny") is engine


@pytest.mark.parametrize("window", [8, 9, 17, 33])
def test_any_window_is_probed(tiny_model: Model, window: int) -> None:
    engine = TransformersEngine(tiny_model(), vocab_size=VOCABULARY)
    assert probed(engine, window=window, name="tiny") is engine
