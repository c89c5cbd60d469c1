from pathlib import Path

import gguf
import pytest

from logitlake.pipeline.tokens.gguf.metadata import read_metadata
from logitlake.storage.errors import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    writer.add_uint32("u32", 7)
    writer.add_int64("i64", -7)
    writer.add_float32("f32", 0.5)
    writer.add_bool("yes", True)
    writer.add_string("text", "größer\n")
    writer.add_array("texts", ["a", "▁b", ""])
    writer.add_array("numbers", [1.5, -2.5])
    writer.add_array("flags", [True, False])
    writer.add_array("nested", [[1, 2], [3]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return tmp_path / "a.gguf"


def test_values_are_those_that_were_written(file: Path) -> None:
    """`gguf` wrote them; its reader does not take nested lists."""
    found = read_metadata(file)
    assert found == {
        "general.architecture": "llama",
        "u32": 7,
        "i64": -7,
        "f32": 0.5,
        "yes": True,
        "text": "größer\n",
        "texts": ["a", "▁b", ""],
        "numbers": [1.5, -2.5],
        "flags": [True, False],
        "nested": [[1, 2], [3]],
    }


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGML\3\0\0\0", b"GGUF\1\0\0\0" + b"\0" * 16])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.gguf"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"b\.gguf: expected a GGUF file"):
        read_metadata(path)


def test_a_file_that_was_cut_is_refused_wherever_it_was_cut(file: Path) -> None:
    content = file.read_bytes()
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        with pytest.raises(SettingsError, match=r"a\.gguf: expected a GGUF file"):
            read_metadata(file)
