import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from logitlake.pipeline.model_files import fingerprints
from logitlake.pipeline.model_files.fingerprints import hash_adapter, hash_weights
from logitlake.storage.errors import SettingsError

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.int64),
    "c": np.zeros((0, 3), np.float32),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))


def save(path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
    save_file(tensors, path, metadata=metadata or None)
    return path


def test_the_hash_does_not_depend_on_how_tensors_are_cut_into_files(tmp_path: Path) -> None:
    one = save(tmp_path / "model.safetensors", TENSORS, format="pt")
    parts = [save(tmp_path / f"{name}.safetensors", {name: TENSORS[name]}) for name in TENSORS]
    assert hash_weights([one]) == hash_weights(parts) == hash_weights(parts[::-1])
    assert hash_weights([one])[1] == 10


@pytest.mark.parametrize(
    "other",
    [
        {"a": TENSORS["a"].reshape(3, 2)},
        {"a": TENSORS["a"].view(np.int32)},
        {"a": TENSORS["a"] + 1},
        {"renamed": TENSORS["a"]},
        {"a": TENSORS["a"], "b": TENSORS["b"]},
    ],
    ids=["shape", "dtype", "bytes", "name", "one more"],
)
def test_name_dtype_shape_and_bytes_all_count(tmp_path: Path, other: dict[str, np.ndarray]) -> None:
    mine = save(tmp_path / "mine.safetensors", {"a": TENSORS["a"]})
    theirs = save(tmp_path / "theirs.safetensors", other)
    assert hash_weights([mine])[0] != hash_weights([theirs])[0]


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model.safetensors", TENSORS)
    first = hash_weights([path])
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_hash_safetensors", None)
        assert hash_weights([path]) == first
    save(path, {**TENSORS, "d": np.ones(1)})
    assert hash_weights([path]) != first


def test_a_broken_cache_is_made_anew_and_an_unwritable_one_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "model.safetensors", TENSORS)
    first = hash_weights([path])
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text("{")
    assert hash_weights([path]) == first
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "file"))
    assert hash_weights([path]) == first


@pytest.mark.parametrize("cut", [4, 60, -5], ids=["length", "header", "data"])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path / "model.safetensors", TENSORS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SettingsError, match=r"model\.safetensors"):
        hash_weights([path])


def test_a_missing_file_and_a_tensor_in_two_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        hash_weights([tmp_path / "none.safetensors"])
    one, two = (save(tmp_path / f"{i}.safetensors", TENSORS) for i in "12")
    with pytest.raises(SettingsError, match="another file"):
        hash_weights([one, two])


def test_an_adapters_hash_covers_its_settings_but_not_where_its_base_lay(tmp_path: Path) -> None:
    path = save(tmp_path / "adapter_model.safetensors", TENSORS)

    def with_config(**config: object) -> str:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, **config}))
        return hash_adapter(tmp_path, [path])

    assert with_config(base_model_name_or_path="/a") == with_config(base_model_name_or_path="/b", peft_version="1")
    assert with_config() != with_config(lora_alpha=16)
