"""Values that are written into a settings file are the values that are read from it."""

import sys
from pathlib import Path

import pytest
import yaml

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.yaml_file import scalar

# Surrogates can't stand in a file of UTF-8.
CHARACTERS = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]


@pytest.mark.parametrize("form", ["{}", "a{}", "{}a", "a{}b", "a {} b"])
def test_every_character_of_a_name_survives_the_file(form: str) -> None:
    names = [form.format(character) for character in (*CHARACTERS, "🙂", chr(sys.maxunicode))]
    for name in names:
        assert yaml.safe_load(f"path: {scalar(name)}\n") == {"path": name}, ascii(name)
        assert yaml.safe_load(f"glob: {scalar((name, 'b'))}\n") == {"glob": [name, "b"]}, ascii(name)
        assert "\n" not in scalar(name)


@pytest.mark.parametrize("name", ["メモ\u3000", "a\x85b", "\u2003a", "plain", "# no comment"])
def test_the_loader_of_settings_reads_them_too(name: str, tmp_path: Path) -> None:
    file = tmp_path / "logitlake.yaml"
    file.write_text(f"corpora:\n  - {{name: n, kind: text, path: {scalar(name)}}}\n", encoding="utf-8")
    assert load_config(file).corpora[0].path == name
