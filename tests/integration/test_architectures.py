"""Teachers of every architecture that a tiny model can be made of, against plain transformers.

The architectures are those that docs/teachers.md names.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from logitlake.pipeline.model_files.loading import load_causal_lm
from logitlake.pipeline.model_files.output_matrix import load_output_matrix
from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine
from logitlake.pipeline.teachers.output_layer import output_layer_of
from logitlake.pipeline.teachers.probe import probed
from logitlake.storage.errors import MismatchError, SettingsError
from tests.tiny_architectures import VOCABULARY, tiny_model

WINDOW = 64
LENGTHS = (40, 7, 23, WINDOW)
FIRST_ORDINARY_ID = 3
PAGE = Path("docs/teachers.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Architectures that were compared")[2].partition("\n## ")[0]
COMPARED, BIDIRECTIONAL = (re.findall(r"`([\w-]+)`", part) for part in SECTION.split("Refused as bidirectional:"))
CPU = torch.device("cpu")
# Their output layer has weights beside its matrix.
UNCUT = {"modernbert-decoder"}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model_type", COMPARED)
def test_a_saved_teacher_is_loaded_whole_and_its_logits_are_those_of_plain_transformers(
    model_type: str, tmp_path: Path
) -> None:
    """Documents in one batch against the whole model on each document alone, without padding."""
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    loaded = load_causal_lm(tmp_path, "teacher", dtype=torch.float32).eval()
    saved = model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
    rng = np.random.default_rng(0)
    ids = [rng.integers(FIRST_ORDINARY_ID, VOCABULARY, length).astype(np.int32) for length in LENGTHS]
    with torch.inference_mode():
        expected = torch.cat(
            [model(input_ids=torch.from_numpy(i.astype(np.int64))[None]).logits[0, :, :VOCABULARY] for i in ids]
        )
    engine = probed(TransformersEngine(loaded, vocab_size=VOCABULARY), window=WINDOW, name=model_type)
    found = torch.cat([chunk.clone() for chunk in engine.forward(ids, [np.ones(len(i), bool) for i in ids])])
    assert expected.std() > 0.05, "the logits tell something"
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("model_type", COMPARED)
def test_the_output_layer_of_the_files_alone_makes_the_logits_of_the_whole_model(
    model_type: str, tmp_path: Path
) -> None:
    """Its input is recorded inside plain transformers. A model whose code can't be cut there is refused by name."""
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    seen: list[torch.Tensor] = []
    for body in {model.get_decoder(), model.base_model, getattr(model, "model", model)} - {model}:
        body.register_forward_hook(lambda _, inputs, output: seen.extend(_hidden(output)))
    ids = torch.arange(FIRST_ORDINARY_ID, WINDOW)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[0, :, :VOCABULARY]
        try:
            alone = load_output_matrix(tmp_path, dtype=torch.float32, device=CPU, trust_remote_code=False)
            found = torch.cat(list(output_layer_of(alone, vocab_size=VOCABULARY).logits(seen[-1])))
        except SettingsError as error:
            assert model_type in UNCUT, error
            return
    assert model_type not in UNCUT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _hidden(output: Any) -> list[torch.Tensor]:
    return [output.last_hidden_state[0]] if hasattr(output, "last_hidden_state") else []


@pytest.mark.parametrize("model_type", BIDIRECTIONAL)
def test_a_model_whose_positions_see_their_label_is_refused(model_type: str) -> None:
    with pytest.raises(MismatchError, match="expected a causal language model"):
        probed(TransformersEngine(tiny_model(model_type), vocab_size=VOCABULARY), window=WINDOW, name=model_type)
