"""Quantised checkpoints as transformers loads them on a CPU: fp8 in blocks, which it dequantises."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.registry import load_engine
from logitlake.storage.errors import SettingsError
from tests.tiny_models import TINY_VOCAB, make_tiny_llama, write_tiny_tokenizer

_BLOCK = 128
_LARGEST = 448.0  # of float8_e4m3fn
SHAPE = {"hidden_size": 256, "intermediate_size": 384, "initializer_range": 0.1}
Quantise = Callable[[torch.dtype], tuple[Path, Path]]


@pytest.fixture
def quantised(tmp_path: Path) -> Quantise:
    """Writes a Llama in fp8, with its other weights in a dtype, and beside it the same weights as plain numbers."""

    def write(other: torch.dtype) -> tuple[Path, Path]:
        directory, dequantised = tmp_path / "fp8", tmp_path / "plain"
        for path in (directory, dequantised):
            make_tiny_llama(**SHAPE).save_pretrained(path)
        write_tiny_tokenizer(directory)
        stored: dict[str, torch.Tensor] = {}
        plain: dict[str, torch.Tensor] = {}
        for name, weight in load_file(directory / "model.safetensors").items():
            if not name.endswith("proj.weight"):
                stored[name] = plain[name] = weight.to(other)
                continue
            blocks = weight.view(weight.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK)
            scales = blocks.abs().amax((1, 3)) / _LARGEST
            codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            stored[name], stored[f"{name}_scale_inv"] = codes.view(weight.shape), scales
            plain[name] = (codes.float() * scales[:, None, :, None]).view(weight.shape)
        save_file(stored, directory / "model.safetensors", {"format": "pt"})
        save_file(plain, dequantised / "model.safetensors", {"format": "pt"})
        _change_config(directory, quant_method="fp8", activation_scheme="dynamic", weight_block_size=[_BLOCK, _BLOCK])
        return directory, dequantised

    return write


def _change_config(directory: Path, **quantisation: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantisation}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16])
def test_a_teacher_in_fp8_gives_the_log_probs_of_its_dequantised_weights(
    quantised: Quantise, dtype: str, other: torch.dtype
) -> None:
    directory, plain = quantised(other)
    settings = TeacherSettings(model=str(directory), device="cpu", dtype=dtype)  # type: ignore[arg-type]
    engine = load_engine(settings, resolve_teacher(settings), vocab_size=TINY_VOCAB, window=64)
    assert engine.description["dtype"] == dtype
    ids = np.arange(20, 60, dtype=np.int32)
    found = torch.cat([chunk.clone() for chunk in engine.forward([ids], [np.ones(40, bool)])])
    with torch.inference_mode():
        reference = AutoModelForCausalLM.from_pretrained(plain, dtype=getattr(torch, dtype))
        expected = reference(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        unquantised = make_tiny_llama(**SHAPE)(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 if dtype == "bfloat16" else 1e-5)
    assert (found.float() - unquantised).abs().max() > 0.05, "quantised weights differ from those they were made of"


def test_a_kind_of_quantisation_whose_library_is_missing_is_refused_with_its_name(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, directory)
    settings = TeacherSettings(model=str(directory), device="cpu", dtype="float32")
    _change_config(directory, quant_method="compressed-tensors", format="int-quantized")
    with pytest.raises(SettingsError, match=r"transformers can't load it: .*compressed.tensors"):
        load_engine(settings, resolve_teacher(settings), vocab_size=TINY_VOCAB, window=64)
