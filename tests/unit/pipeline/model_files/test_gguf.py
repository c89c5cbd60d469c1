import json
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.model_files.gguf import _card, convert_gguf
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.engines.transformers_engine import load_teacher
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError

KINDS: tuple[Literal["file", "transformers"], ...] = ("file", "transformers")
LAYER = {
    "attn_q": (32, 32),
    "attn_k": (16, 32),
    "attn_v": (16, 32),
    "attn_output": (32, 32),
    "ffn_gate": (64, 32),
    "ffn_up": (64, 32),
    "ffn_down": (32, 64),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def gguf_file(tmp_path: Path, trained_backend: str) -> Path:
    """A Llama of two layers with the tests' tokenizer inside, as llama.cpp's tools write it."""
    backend = json.loads(trained_backend)
    tokens = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].__getitem__)
    # The name that transformers' own GPT-2 tokenizer would otherwise add as one id more.
    tokens[tokens.index("<unk>")] = "<|endoftext|>"
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("apache-2.0")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "SmolLM2-135M")
    writer.add_base_model_organization(0, "HuggingFaceTB")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_token_types([3 if token.startswith("<") and len(token) > 2 else 1 for token in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in LAYER.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape) * 0.3).astype(np.float32))
    for name in ("output_norm", *(f"blk.{layer}.{kind}_norm" for layer in range(2) for kind in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_an_ordinary_teacher_once(gguf_file: Path, tmp_path: Path) -> None:
    """Named by path, by folder and name, or by a folder that holds it: one conversion, one hash, a working engine."""
    named = TeacherSettings(model=str(gguf_file), device="cpu", dtype="bfloat16")
    files = resolve_teacher(named)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "gguf").rglob("*")}
    assert resolve_teacher(TeacherSettings(model=str(gguf_file.parent), gguf_file="tiny.gguf")) == files
    assert resolve_teacher(TeacherSettings(model=str(gguf_file.parent))) == files
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "gguf").rglob("*")} == made
    assert not [path for path in made if path.name.endswith(".tmp")]
    tokenizer = TextTokenizer.load(files.directory)
    engine = load_teacher(named, files, vocab_size=tokenizer.vocab_size)
    ids = np.array(tokenizer.encode_texts(["the lazy dog"])[0], np.int32)
    (logits,) = engine.forward([ids], [np.ones(len(ids), bool)])
    assert logits.shape == (len(ids), tokenizer.vocab_size)
    assert logits.isfinite().all()


def test_a_file_that_is_no_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(SettingsError, match=r"broken\.gguf"):
        convert_gguf(path)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_the_origin_of_a_gguf_file_is_that_of_its_metadata(gguf_file: Path) -> None:
    origin = resolve_teacher(TeacherSettings(model=str(gguf_file))).origin
    assert origin is not None
    assert origin.to_dict() == {
        "model": str(gguf_file),
        "licence": "apache-2.0",
        "base_models": ["HuggingFaceTB/SmolLM2-135M"],
    }


def test_metadata_of_another_type_is_left_out_of_the_card(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint32("general.license", 7)
    writer.add_string("general.base_model.count", "many")
    writer.add_uint32("general.base_model.0.name", 7)
    writer.add_string("general.base_model.0.organization", "owner")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert _card(path) == {"base_model": ["owner"]}


def test_the_files_rule_cuts_digits_and_the_conversion_of_transformers_stays_at_hand(
    gguf_file: Path, tmp_path: Path
) -> None:
    """The second is what an older logitlake took, under the same name in the cache and with the same hash."""
    described, converted = convert_gguf(gguf_file), convert_gguf(gguf_file, tokenizer="transformers")
    assert described != converted
    texts = ["x ½٣ y"]
    older = AutoTokenizer.from_pretrained(str(gguf_file.parent), gguf_file=gguf_file.name)
    older.save_pretrained(tmp_path / "older")
    assert load_tokenizer(converted).fingerprint == TextTokenizer.load(tmp_path / "older").fingerprint
    assert load_tokenizer(converted).encode_texts(texts) == [older(texts[0]).input_ids]
    new = load_tokenizer(described)
    cut = new.backend.pre_tokenizer.pre_tokenize_str("x12 34")
    assert [text for text, _ in cut] == ["x", "1", "2", "Ġ", "3", "4"]
    first, second = (resolve_teacher(TeacherSettings(model=str(gguf_file), gguf_tokenizer=kind)) for kind in KINDS)
    assert (first.teacher_hash, first.config_hash) == (second.teacher_hash, second.config_hash)
    assert {first.directory, second.directory} == {described, converted}


def test_a_rule_that_is_not_known_is_refused_unless_told(gguf_file: Path, tmp_path: Path) -> None:
    content = gguf_file.read_bytes()
    gguf_file.write_bytes(content.replace(b"smollm", b"secret"))
    with pytest.raises(SettingsError, match=r"tiny\.gguf.*found 'secret'.*teacher\.gguf_tokenizer to transformers"):
        convert_gguf(gguf_file)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []
    assert (convert_gguf(gguf_file, tokenizer="transformers") / "tokenizer.json").is_file()
