import dataclasses
import gc
import json
import os
import stat
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from logitlake.pipeline.saving import write_and_compare as saving
from logitlake.pipeline.saving.probe import mean_divergence, probe_logits, probe_on, probe_sequences
from logitlake.pipeline.saving.saved_dtype import saved_dtype
from logitlake.pipeline.saving.write_and_compare import (
    Trained,
    check_adapter,
    check_merged,
    check_tokenizer_again,
    make_readable,
    write_in_dtype,
)
from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.storage.errors import MismatchError, SettingsError
from tests.tiny_architectures import tiny_model
from tests.tiny_models import make_tiny_llama, write_tiny_tokenizer


def as_trained(model):
    sequences = probe_sequences(model.config, vocabulary=200, window=64)
    return Trained(
        name="a1b2",
        sequences=sequences,
        logits=probe_logits(model, sequences),
        device=torch.device("cpu"),
        weights={name: tensor.clone() for name, tensor in model.state_dict().items()},
    )


@pytest.fixture
def trained(tmp_path):
    model = make_tiny_llama(initializer_range=0.3)
    model.save_pretrained(tmp_path / "full")
    return as_trained(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_plain_transformers_reads_the_trained_model_in_the_dtype_that_was_asked_for(trained, tmp_path, dtype):
    saved = write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=dtype, or_float32=False)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert again.dtype == dtype == getattr(torch, saved.dtype)
    assert json.loads((tmp_path / "student" / "config.json").read_text())["dtype"] == saved.dtype
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, trained.weights[name].to(dtype))
    found = mean_divergence(trained.logits, probe_logits(again.float(), trained.sequences))
    assert found == pytest.approx(saved.rounding_kl, abs=1e-9)
    assert (found == 0) == (dtype == torch.float32)
    assert not (tmp_path / "full").exists()


def test_a_config_that_describes_another_function_is_found_and_no_student_is_made(trained, tmp_path):
    path = tmp_path / "full" / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["rope_theta"] = 100.0
    path.write_text(json.dumps(config))
    with pytest.raises(MismatchError, match=r"student a1b2: read again .* by a mean KL of [\d.e-]+ nats"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=torch.bfloat16)
    assert not (tmp_path / "student").exists()


def test_a_weight_that_is_not_the_trained_one_is_named_with_its_difference(trained, tmp_path):
    trained.weights["model.norm.weight"][3] += 0.5
    with pytest.raises(MismatchError, match=r"student a1b2: .* weight model\.norm\.weight differs by up to 0\.5"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=torch.float32)


def test_a_weight_that_transformers_changes_as_it_loads_is_named(tmp_path):
    """This architecture sets the embedding of the padding token to zero, and with it its output layer."""
    model = tiny_model("youtu")
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0.25
    model.save_pretrained(tmp_path / "full")
    with pytest.raises(MismatchError, match=r"embed_tokens\.weight differs by up to 0\.25"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", as_trained(model), dtype=torch.float32)


@pytest.fixture
def overflowing(tmp_path):
    """A model with a weight that float16 can't hold."""
    model = make_tiny_llama(initializer_range=0.3)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path / "full")
    return as_trained(model)


def test_a_student_that_rounding_would_spoil_is_saved_in_float32_with_a_warning(overflowing, tmp_path, caplog):
    saved = write_in_dtype(tmp_path / "full", tmp_path / "student", overflowing, dtype=torch.float16)
    assert saved.dtype == "float32"
    assert "student a1b2: rounding its weights to float16 changes it by a mean KL of inf nats" in caplog.text
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "student").dtype == torch.float32


def test_a_dtype_that_was_asked_for_and_can_not_hold_the_weights_is_refused(overflowing, tmp_path):
    with pytest.raises(SettingsError, match=r"student\.dtype float16: student a1b2 .* set student\.dtype"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", overflowing, dtype=torch.float16, or_float32=False)


def test_a_diverged_student_is_saved_as_it_is(tmp_path):
    model = make_tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path / "full")
    saved = write_in_dtype(tmp_path / "full", tmp_path / "student", as_trained(model), dtype=torch.bfloat16)
    assert saved.dtype == "bfloat16"


@pytest.mark.parametrize("in_config", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_of_a_student_is_that_of_its_parent_unless_told_otherwise(tmp_path, dtype, in_config):
    make_tiny_llama().to(dtype).save_pretrained(tmp_path)
    if not in_config:
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        del config["dtype"]
        path.write_text(json.dumps(config))
    parent = Parent(parent_id="p", content_id="p", directory=tmp_path, tokenizer_directory=None)
    settings = StudentSettings(source="checkpoint", model=str(tmp_path))
    assert saved_dtype(settings, parent) == dtype
    assert saved_dtype(settings.model_copy(update={"dtype": "float16"}), parent) == torch.float16


def test_a_parent_without_files_gives_float32():
    parent = Parent(parent_id="p", content_id="p", directory=None, tokenizer_directory=None)
    assert saved_dtype(StudentSettings(layers=2), parent) == torch.float32


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path):
    for name in ("source", "student"):
        write_tiny_tokenizer(tmp_path / name)
    check_tokenizer_again(tmp_path / "source", tmp_path / "student", "a1b2")
    path = tmp_path / "student" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))
    with pytest.raises(MismatchError, match=r"student a1b2: its tokenizer gives other ids"):
        check_tokenizer_again(tmp_path / "source", tmp_path / "student", "a1b2")


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_files_have_the_mode_of_new_files(tmp_path, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        (tmp_path / "student" / "adapter").mkdir(parents=True)
        make_tiny_llama().save_pretrained(tmp_path / "student")
        (tmp_path / "student" / "model.safetensors").chmod(0o600)
        (tmp_path / "student").chmod(0o700)
        make_readable(tmp_path / "student")
    finally:
        os.umask(before)
    modes = {path.is_dir(): set() for path in (tmp_path, tmp_path / "student" / "config.json")}
    for path in [tmp_path / "student", *(tmp_path / "student").rglob("*")]:
        modes[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    assert modes == {True: {folder_mode}, False: {file_mode}}


def test_divergence_tells_lost_positions_from_equal_ones():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 0.0, 1.0]])
    assert mean_divergence(logits, logits) == 0
    lost = logits.clone()
    lost[1, 0] = torch.nan
    assert mean_divergence(logits, lost) == float("inf")
    assert mean_divergence(lost, lost) == 0
    other = logits + torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    p, q = logits[0, :2].double().softmax(-1), other[0, :2].double().softmax(-1)
    assert mean_divergence(logits, other) == pytest.approx(float((p * (p / q).log()).sum()) / 2, rel=1e-6)


def test_a_tokenizer_that_differs_in_a_rare_token_only_is_found(tmp_path):
    for name in ("source", "student"):
        (tmp_path / name).mkdir()
        write_tiny_tokenizer(tmp_path / name)
    check_tokenizer_again(tmp_path / "source", tmp_path / "student", "a1b2")
    path = tmp_path / "student" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġmat"], vocabulary["Ġlog"] = vocabulary["Ġlog"], vocabulary["Ġmat"]
    path.write_text(json.dumps(content))
    with pytest.raises(MismatchError, match=r"by its source and .* by the student; nothing is registered"):
        check_tokenizer_again(tmp_path / "source", tmp_path / "student", "a1b2")


@pytest.fixture
def full_device(monkeypatch):
    """A device on which no second model has room. It is no GPU: nothing is ever computed there."""
    move = torch.nn.Module.to

    def to(module, *args, **options):
        if any(torch.device(arg).type == "cuda" for arg in args if isinstance(arg, (str, torch.device))):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(module, *args, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    return torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_is_compared_on_the_cpu_where_the_device_has_no_room(trained, tmp_path, full_device, dtype):
    elsewhere = dataclasses.replace(trained, device=full_device)
    saved = write_in_dtype(tmp_path / "full", tmp_path / "student", elsewhere, dtype=dtype)
    assert getattr(torch, saved.dtype) == dtype


@pytest.fixture
def adapted(tmp_path):
    """A tiny model with an adapter that changes it; the files of both lie in `base` and `adapter`."""
    model = make_tiny_llama(initializer_range=0.3)
    model.save_pretrained(tmp_path / "base")
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return adapted


def test_an_adapter_is_compared_on_the_cpu_where_the_device_has_no_room(adapted, tmp_path, full_device):
    trained = dataclasses.replace(as_trained(adapted), device=full_device)
    check_adapter(tmp_path / "base", tmp_path / "adapter", trained)
    other = dataclasses.replace(trained, logits=trained.logits + torch.rand_like(trained.logits))
    with pytest.raises(MismatchError, match="with the saved adapter gives other logits"):
        check_adapter(tmp_path / "base", tmp_path / "adapter", other)


def test_the_cpu_in_place_of_a_full_device_computes_the_short_sequence_alone(trained, tmp_path, full_device):
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    found = probe_on(full_device, model, trained.sequences)
    assert not found.on_device and torch.equal(found.logits, trained.logits[: trained.sequences[0].shape[1]])
    found = probe_on(torch.device("cpu"), model, trained.sequences)
    assert found.on_device and torch.equal(found.logits, trained.logits)


class Converted(TorchDispatchMode):
    """The most bytes of weights that were converted to another dtype and alive at once."""

    alive = most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "_to_copy" in func.__name__ and args[0].shape in self.shapes:
            self.alive += result.nbytes
            self.most = max(self.most, self.alive)
            weakref.finalize(result, self.release, result.nbytes)
        return result

    def __init__(self, weights):
        super().__init__()
        self.shapes = {tensor.shape for tensor in weights.values()}

    def release(self, n_bytes):
        self.alive -= n_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "loads"), [(torch.float32, 1), (torch.bfloat16, 3)])
def test_one_model_is_in_memory_beside_the_trained_one_and_a_rounded_one_while_it_is_copied(
    trained, tmp_path, monkeypatch, dtype, loads
):
    load, probe, models, at_loads, at_probes = saving.load_causal_lm, saving.probe_on, [], [], []

    def alive():
        gc.collect()
        return sum(model() is not None for model in models)

    def counted_load(*args, **options):
        at_loads.append(alive())
        model = load(*args, **options)
        models.append(weakref.ref(model))
        return model

    def counted_probe(*args, **options):
        at_probes.append(alive())
        return probe(*args, **options)

    monkeypatch.setattr(saving, "load_causal_lm", counted_load)
    monkeypatch.setattr(saving, "probe_on", counted_probe)
    with Converted(trained.weights) as converted:
        write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=dtype)
    assert (len(at_loads), max(at_loads), set(at_probes)) == (loads, min(1, loads - 1), {1})
    sizes = [tensor.nbytes for tensor in trained.weights.values()]
    assert converted.most <= 2 * max(sizes) < sum(sizes) / 2


def test_float32_is_exact_in_a_probe_whatever_the_process_allows(trained, tmp_path):
    """As in a container that allows TF32, or after torch.set_float32_matmul_precision."""
    model, inside = AutoModelForCausalLM.from_pretrained(tmp_path / "full"), []
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
    model.register_forward_pre_hook(lambda *_: inside.append([each.fp32_precision for each in backends]))
    try:
        for precision in ("high", "highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            before = [each.fp32_precision for each in backends]
            probe_logits(model, trained.sequences[:1])
            assert inside.pop() == ["ieee"] * 3
            assert [each.fp32_precision for each in backends] == before
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_comparison_on_the_cpu_uses_all_processors_and_leaves_the_threads_as_they_were(trained, tmp_path):
    model, inside = AutoModelForCausalLM.from_pretrained(tmp_path / "full"), []
    model.register_forward_pre_hook(lambda *_: inside.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        probe_on(torch.device("cpu"), model, trained.sequences[:1])
        assert inside == [len(os.sched_getaffinity(0))]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def off_by(logits, kl):
    """Other logits with about this mean KL from the first ones."""
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return logits + noise * (kl / mean_divergence(logits, logits + 0.01 * noise)) ** 0.5 * 0.01


def test_an_error_names_the_config_only_where_rounding_can_not_be_the_cause(trained, tmp_path):
    for kl, said in ((1e-6, "so small a difference comes from rounding"), (1e-3, "its config.json describes another")):
        other = dataclasses.replace(trained, logits=off_by(trained.logits, kl))
        with pytest.raises(MismatchError, match=f"its weights are equal.* {said}"):
            write_in_dtype(tmp_path / "full", tmp_path / "student", other, dtype=torch.float32)


def test_rounding_between_two_devices_or_by_merging_an_adapter_is_no_difference(trained, tmp_path, full_device):
    check_merged(trained, off_by(trained.logits, 8e-6))
    with pytest.raises(MismatchError, match="with its adapter merged it gives other logits"):
        check_merged(trained, off_by(trained.logits, 1e-4))
    other = dataclasses.replace(trained, logits=off_by(trained.logits, 5e-6), device=full_device)
    write_in_dtype(tmp_path / "full", tmp_path / "student", other, dtype=torch.float32)


def test_a_rounded_student_with_another_config_than_in_float32_is_refused(trained, tmp_path, monkeypatch):
    save = type(make_tiny_llama()).save_pretrained

    def with_other_config(model, directory, **options):
        model.config.rms_norm_eps = 1e-3
        save(model, directory, **options)

    monkeypatch.setattr(type(make_tiny_llama()), "save_pretrained", with_other_config)
    with pytest.raises(MismatchError, match="differs from itself in float32 in rms_norm_eps"):
        write_in_dtype(tmp_path / "full", tmp_path / "student", trained, dtype=torch.bfloat16)
