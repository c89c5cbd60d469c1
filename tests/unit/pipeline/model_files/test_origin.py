"""Where a teacher comes from is recorded, and never decides what it is."""

from pathlib import Path

import pytest

from logitlake.pipeline.model_files.origin import TeacherOrigin, find_origin

CARD = """---
license: apache-2.0
base_model: owner/base
language: [en]
---

# A model
"""


def test_a_card_names_licence_and_base_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    found = find_origin("owner/name", "main", tmp_path)
    assert found == TeacherOrigin(
        model="owner/name", revision="main", licence="apache-2.0", base_models=("owner/base",)
    )


@pytest.mark.parametrize(
    ("fields", "licence", "base_models"),
    [
        ("license: other\nlicense_name: llama3.1", "llama3.1", ()),
        ("license: [mit, apache-2.0]", None, ()),
        ("base_model: [a/b, c/d]", None, ("a/b", "c/d")),
        ("base_model: {a: b}", None, ()),
        ("a: [", None, ()),
        ("just words", None, ()),
    ],
)
def test_a_card_of_any_content_is_read(tmp_path: Path, fields: str, licence: str, base_models: tuple[str, ...]) -> None:
    (tmp_path / "README.md").write_text(f"---\n{fields}\n---\ntext")
    found = find_origin("x", None, tmp_path)
    assert (found.licence, found.base_models) == (licence, base_models)


@pytest.mark.parametrize("content", [None, b"", b"# no front matter", b"\xff\xfe---\n"])
def test_a_card_that_says_nothing_is_no_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    assert find_origin("x", None, tmp_path) == TeacherOrigin(model="x")


def test_the_commit_of_a_snapshot_of_the_hub_is_the_revision(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a1" * 20)
    snapshot.mkdir(parents=True)
    assert find_origin("owner/name", "main", snapshot).revision == "a1" * 20
