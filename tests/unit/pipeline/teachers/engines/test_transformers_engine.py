import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.numpy import save_file

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers import output_layer
from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine, load_teacher
from logitlake.storage.errors import MismatchError, SettingsError

VOCABULARY = 300
Batch = tuple[list[np.ndarray], list[np.ndarray]]
Model = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


def one_by_one(model: Any, batch: Batch) -> torch.Tensor:
    """The whole model, one sequence after the other, no padding: what every batch must give."""
    rows = []
    with torch.inference_mode():
        for ids, wanted in zip(*batch, strict=True):
            logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0, :, :VOCABULARY]
            rows.append(logits[torch.from_numpy(wanted)])
    return torch.cat(rows).float()


def all_chunks(engine: TransformersEngine, batch: Batch) -> torch.Tensor:
    return torch.cat([chunk.clone() for chunk in engine.forward(*batch)]).float()


def load(directory: Path, **settings: Any) -> TransformersEngine:
    chosen = TeacherSettings.model_validate({"model": str(directory), "device": "cpu", "dtype": "float32", **settings})
    return load_teacher(chosen, resolve_teacher(chosen), vocab_size=VOCABULARY)


def test_batching_and_padding_change_no_logits(tiny_model: Model, batch: Batch) -> None:
    model = tiny_model()
    found = all_chunks(TransformersEngine(model, vocab_size=VOCABULARY), batch)
    torch.testing.assert_close(found, one_by_one(model, batch), rtol=1e-4, atol=1e-4)


def test_left_padding_would_give_the_same_logits_at_real_positions(tiny_model: Model, batch: Batch) -> None:
    model = tiny_model()
    engine = TransformersEngine(model, vocab_size=VOCABULARY)
    ids = torch.from_numpy(batch[0][1].astype(np.int64))
    padded = torch.cat([torch.zeros(33, dtype=torch.int64), ids])[None]
    mask = (torch.arange(40) >= 33).long()[None]
    with torch.inference_mode():
        left = model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    everything = [np.ones(len(ids), bool) for ids in batch[0]]
    right = all_chunks(engine, (batch[0], everything))[40:47]
    torch.testing.assert_close(left[0, 33:, :VOCABULARY], right, rtol=1e-4, atol=1e-4)


def test_logits_come_in_chunks_of_bounded_size(
    tiny_model: Model, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(output_layer, "_CPU_CHUNK_ELEMENTS", 5 * VOCABULARY)
    chunks = [chunk.clone() for chunk in TransformersEngine(model, vocab_size=VOCABULARY).forward(*batch)]
    assert max(len(chunk) for chunk in chunks) == 5
    torch.testing.assert_close(torch.cat(chunks), one_by_one(model, batch), rtol=1e-4, atol=1e-4)


def test_nothing_wanted_is_nothing_computed(tiny_model: Model, batch: Batch) -> None:
    engine = TransformersEngine(tiny_model(), vocab_size=VOCABULARY)
    assert list(engine.forward(batch[0], [np.zeros(len(ids), bool) for ids in batch[0]])) == []


def test_rows_of_the_output_layer_past_the_tokenizer_are_left_out(tiny_model: Model, batch: Batch) -> None:
    engine = TransformersEngine(tiny_model(), vocab_size=VOCABULARY)
    assert engine.vocab_size == VOCABULARY
    assert all_chunks(engine, batch).shape[1] == VOCABULARY


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tiny_model: Model) -> None:
    with pytest.raises(MismatchError, match=r"at least 321.*found 320"):
        TransformersEngine(tiny_model(), vocab_size=321)


@pytest.mark.parametrize("whole_forward", [False, True])
def test_a_bias_on_the_output_layer_is_not_lost(
    tiny_model: Model, batch: Batch, whole_forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, 320))
    if whole_forward:
        monkeypatch.setattr(TransformersEngine, "_own_output_layer", lambda self: None)
    engine = TransformersEngine(model, vocab_size=VOCABULARY)
    torch.testing.assert_close(all_chunks(engine, batch), one_by_one(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [lambda x: 30 * torch.tanh(x / 30), lambda x: x * 1.0625], ids=["cap", "scale"])
def test_what_follows_the_output_matrix_is_seen_and_the_models_own_code_does_it(
    tiny_model: Model, batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model = tiny_model()
    plain = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = changed
    engine = TransformersEngine(model, vocab_size=VOCABULARY)
    assert engine.description["output_layer"] == "the model's own code"
    torch.testing.assert_close(all_chunks(engine, batch), one_by_one(model, batch), rtol=1e-4, atol=1e-4)


def test_a_plain_output_layer_is_used_directly(tiny_model: Model) -> None:
    assert TransformersEngine(tiny_model(), vocab_size=VOCABULARY).description["output_layer"] == "direct"
    half = TransformersEngine(tiny_model().to(torch.bfloat16), vocab_size=VOCABULARY)
    assert half.description["output_layer"] == "direct"


def test_the_teacher_is_loaded_without_dropout_and_without_gradients(teacher_directory: Path, batch: Batch) -> None:
    engine = load(teacher_directory)
    first, second = all_chunks(engine, batch), all_chunks(engine, batch)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not first.requires_grad
    assert not engine._model.training


def test_the_dtype_of_the_settings_is_the_one_that_runs(teacher_directory: Path) -> None:
    assert load(teacher_directory, dtype="bfloat16").description["dtype"] == "bfloat16"
    assert load(teacher_directory).description["dtype"] == "float32"


@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], ["q_proj", "lm_head"]], ids=["body", "output layer"])
def test_an_adapter_is_part_of_the_teacher(
    tiny_model: Model, teacher_directory: Path, tmp_path: Path, batch: Batch, modules: list[str]
) -> None:
    config = LoraConfig(r=4, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # PEFT advises against adapters on tied output layers when they are to be merged.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(tiny_model(tie_word_embeddings=True), config).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        engine = load(teacher_directory, adapter=str(tmp_path / "adapter"))
    expected = one_by_one(adapted, batch)
    torch.testing.assert_close(all_chunks(engine, batch), expected, rtol=1e-4, atol=1e-4)
    assert (expected - all_chunks(load(teacher_directory), batch)).abs().max() > 0.1


def test_an_adapter_of_virtual_tokens_is_refused(teacher_directory: Path, tmp_path: Path) -> None:
    PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    save_file({"prompt_embeddings": np.zeros((3, 32), np.float32)}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SettingsError, match="virtual tokens"):
        load(teacher_directory, adapter=str(tmp_path / "adapter"))


@pytest.mark.parametrize("on_disk", [["model.layers.1"], ["model.layers.0", "model.norm", "lm_head"]])
def test_modules_that_lie_on_disk_change_no_logits(
    tiny_model: Model, tmp_path: Path, batch: Batch, on_disk: list[str]
) -> None:
    tiny_model(tie_word_embeddings=False).save_pretrained(tmp_path / "teacher")
    modules = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
    device_map = {module: "disk" if module in on_disk else "cpu" for module in modules}
    placement = {"device_map": device_map, "offload_folder": str(tmp_path / "disk")}
    engine = load(tmp_path / "teacher", transformers=placement)
    assert engine.description["output_layer"] == "direct"
    torch.testing.assert_close(all_chunks(engine, batch), all_chunks(load(tmp_path / "teacher"), batch))


def test_a_directory_that_is_no_model_is_refused(teacher_directory: Path) -> None:
    (teacher_directory / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(SettingsError, match="can't load it"):
        load(teacher_directory)


def test_the_model_is_free_once_the_engine_is(tiny_model: Model) -> None:
    """Without a look for cycles: an accelerator's memory must not wait for one."""
    gc.collect()
    gc.disable()
    try:
        engine = TransformersEngine(tiny_model(), vocab_size=VOCABULARY)
        body = weakref.ref(engine._body.layers[0])
        del engine
        assert body() is None
    finally:
        gc.enable()
