import json
import os
import stat

import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent
from logitlake.pipeline.students.probe import mean_divergence, probe_logits, probe_sequences
from logitlake.pipeline.students.saved_dtype import saved_dtype
from logitlake.pipeline.students.saving import Trained, check_tokenizer_again, make_readable, write_in_dtype
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
