import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.storage.errors import SettingsError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no hub."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    directory = tmp_path / "teacher"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"w": np.zeros((1000, 1350), np.float32)}, directory / "model.safetensors")
    return directory


def resolve(model: Path | str, **settings: object) -> object:
    return resolve_teacher(TeacherSettings.model_validate({"model": str(model), **settings}))


def test_a_teacher_is_its_tensors_wherever_it_lies(teacher: Path, tmp_path: Path) -> None:
    first = resolve_teacher(TeacherSettings(model=str(teacher)))
    moved = teacher.rename(tmp_path / "elsewhere")
    second = resolve_teacher(TeacherSettings(model=str(moved)))
    assert first.teacher_hash == second.teacher_hash
    assert first.name == second.name == "llama-1.35M"
    assert second.directory == moved


def test_the_index_decides_which_files_are_weights(teacher: Path) -> None:
    alone = resolve_teacher(TeacherSettings(model=str(teacher)))
    save_file({"w": np.ones(3, np.float32)}, teacher / "consolidated.safetensors")
    assert resolve_teacher(TeacherSettings(model=str(teacher))) == alone
    index = teacher / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model.safetensors"}}))
    assert resolve_teacher(TeacherSettings(model=str(teacher))) == alone
    (teacher / "model.safetensors").rename(teacher / "model-1.safetensors")
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    assert resolve_teacher(TeacherSettings(model=str(teacher))) == alone


def test_an_index_of_other_files_beside_a_whole_file_is_refused(teacher: Path) -> None:
    save_file({"w": np.ones(3, np.float32)}, teacher / "model-1.safetensors")
    (teacher / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    with pytest.raises(SettingsError, match=r"model\.safetensors and model\.safetensors\.index\.json.*move it away"):
        resolve(teacher)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"w": 1}}'])
def test_an_index_that_is_none_is_refused(teacher: Path, content: str) -> None:
    (teacher / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SettingsError, match="expected a weight_map"):
        resolve(teacher)


def test_an_adapter_beside_the_model_is_refused(teacher: Path) -> None:
    """transformers would load the base model that the adapter names, and no tensor of it was hashed."""
    (teacher / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(SettingsError, match=r"teacher\.adapter to this directory"):
        resolve(teacher)


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/place", "a/b/c"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(model: str) -> None:
    with pytest.raises(SettingsError, match=r"no such directory.*hub id"):
        resolve(model)


def test_a_hub_id_that_cannot_be_had_says_what_was_tried() -> None:
    with pytest.raises(SettingsError, match=r"owner/name.*looked at.*can't be downloaded from the Hugging Face hub"):
        resolve("owner/name")


def test_pickled_weights_are_refused_until_they_are_trusted_by_name(teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()
    (teacher / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(SettingsError, match=r"pytorch_model\.bin.*allow_pickle"):
        resolve(teacher)
    assert resolve_teacher(TeacherSettings(model=str(teacher), allow_pickle=True)).teacher_hash


def test_a_directory_without_weights_or_config_is_refused(teacher: Path) -> None:
    (teacher / "config.json").unlink()
    with pytest.raises(SettingsError, match=r"config\.json"):
        resolve(teacher)
    (teacher / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match="safetensors"):
        resolve(teacher)


def test_a_gguf_file_that_is_missing_or_ambiguous_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    with pytest.raises(SettingsError, match=r"x\.gguf.*tried"):
        resolve(folder, gguf_file="x.gguf")
    for name in ("x.Q4.gguf", "x.Q8.gguf"):
        (folder / name).write_bytes(b"GGUF")
    with pytest.raises(SettingsError, match=r"x\.Q4\.gguf, x\.Q8\.gguf"):
        resolve(folder)


def test_an_adapter_changes_the_adapter_hash_and_not_the_teachers(teacher: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    with pytest.raises(SettingsError, match="adapter_config"):
        resolve(teacher, adapter=str(adapter))
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4}))
    save_file({"lora": np.ones(3, np.float32)}, adapter / "adapter_model.safetensors")
    plain = resolve_teacher(TeacherSettings(model=str(teacher)))
    adapted = resolve_teacher(TeacherSettings(model=str(teacher), adapter=str(adapter)))
    assert plain.teacher_hash == adapted.teacher_hash
    assert plain.adapter_hash is None
    assert adapted.adapter_hash is not None


@pytest.mark.parametrize(
    ("name", "auto_map"),
    [
        ("config.json", {"AutoConfig": "code.C", "AutoModelForCausalLM": "owner/code--modeling.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["owner/code--tokenizing.T", None]}),
        ("tokenizer_config.json", ["owner/code--tokenizing.T", None]),
    ],
)
def test_trusted_code_of_another_repository_is_refused(teacher: Path, name: str, auto_map: object) -> None:
    path = teacher / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, "auto_map": auto_map}))
    with pytest.raises(SettingsError, match=rf"{name}.*the repository owner/code.*copy the Python files"):
        resolve(teacher, trust_remote_code=True)
    resolve(teacher)
