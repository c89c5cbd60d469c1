import os
import socket
import subprocess
from pathlib import Path

import pytest

from logitlake.pipeline.corpus.files import matches
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.errors import CorpusError

TREE = [
    "a.py",
    "b.txt",
    "z.py",
    ".hidden.py",
    ".git/objects/a.py",
    "sub/a.py",
    "sub/deep/a.py",
    "sub/deep/b[1].txt",
    "tests/a.py",
    "x/tests/y/a.py",
]


@pytest.fixture
def tree(tmp_path):
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def sources(root, *patterns):
    return list(matches("c", root, patterns, ("**/*",)))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("*.py",), ["a.py", "z.py"]),
        (("**/a.py",), ["a.py", "sub/a.py", "sub/deep/a.py", "tests/a.py", "x/tests/y/a.py"]),
        (("sub/**",), ["sub/a.py", "sub/deep/a.py", "sub/deep/b[1].txt"]),
        (("sub/**/a.py",), ["sub/a.py", "sub/deep/a.py"]),
        (("**/*.py", "!**/tests/**"), ["a.py", "sub/a.py", "sub/deep/a.py", "z.py"]),
        (("!**/*.py",), ["b.txt", "sub/deep/b[1].txt"]),
        (("?.txt", "[xz].py"), ["b.txt", "z.py"]),
        (("[!a].py",), ["z.py"]),
        (("**/.hidden.py", ".git/**"), [".git/objects/a.py", ".hidden.py"]),
        (("*/*.py",), ["sub/a.py", "tests/a.py"]),
        (("**/b[[]1].txt",), ["sub/deep/b[1].txt"]),
    ],
)
def test_patterns_choose_below_the_root_and_a_mark_excludes(tree, patterns, expected):
    assert sources(tree, *patterns) == expected


def test_default_takes_every_file_in_order_but_hidden_ones(tree):
    expected = [
        "a.py",
        "b.txt",
        "sub/a.py",
        "sub/deep/a.py",
        "sub/deep/b[1].txt",
        "tests/a.py",
        "x/tests/y/a.py",
        "z.py",
    ]
    assert sources(tree) == expected


def test_linked_directory_is_not_followed_and_a_linked_file_is(tree):
    (tree / "circle").symlink_to(tree)
    (tree / "sub" / "link.md").symlink_to(tree / "b.txt")
    assert sources(tree, "**/*.md") == ["sub/link.md"]


def test_thousands_of_patterns_are_taken(tree):
    every = sources(tree, "**/*")
    assert sources(tree, "**/*", *(f"!x{number}" for number in range(2000))) == every


def items_of(root, kind="text", **settings):
    """What a corpus gives: the text or the reason, by source."""
    items = list(CorpusSettings(name="c", kind=kind, path=str(root), **settings).read())
    assert len({item.source for item in items}) == len(items)
    return {item.source: getattr(item, "reason", None) or item.content for item in items}


@pytest.fixture
def outside(tmp_path):
    """A directory beside the corpus, and the corpus."""
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    corpus.mkdir()
    other.mkdir()
    (other / "secret").write_text("secret")
    (corpus / "own").write_text("own")
    return corpus, other


def test_links_to_what_is_no_file_or_lies_outside_are_rejected_and_links_inside_are_read(outside):
    corpus, other = outside
    os.mkfifo(corpus / "pipe")
    os.mkfifo(other / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(corpus / "socket"))
    targets = {
        "inside": "own",
        "inside pipe": "pipe",
        "outside": other / "secret",
        "outside pipe": other / "pipe",
        "up": "../other/secret",
        "chain": "outside",
        "device": "/dev/zero",
        "beside": f"{corpus}/../corpus/own",
    }
    for name, target in targets.items():
        (corpus / name).symlink_to(target)
    (corpus / "broken outside").symlink_to("/nowhere/at/all")
    assert items_of(corpus) == {
        "own": "own",
        "pipe": "not_a_file",
        "socket": "not_a_file",
        "inside": "own",
        "inside pipe": "not_a_file",
        "outside": "outside_corpus",
        "outside pipe": "outside_corpus",
        "up": "outside_corpus",
        "chain": "outside_corpus",
        "device": "outside_corpus",
        "beside": "own",
        "broken outside": "outside_corpus",
    }


def test_links_outside_are_followed_if_the_settings_say_so_but_never_to_a_device(outside):
    corpus, other = outside
    (corpus / "outside").symlink_to(other / "secret")
    (corpus / "device").symlink_to("/dev/zero")
    assert items_of(corpus, follow_links=True) == {"own": "own", "outside": "secret", "device": "not_a_file"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_reader_rejects_links_outside(outside, kind):
    corpus, other = outside
    (corpus / f"a.{kind}").symlink_to(other / "secret")
    assert items_of(corpus, kind, max_reject_share=1) == {f"a.{kind}": "outside_corpus"}


def test_a_corpus_that_is_itself_a_link_is_read(outside, tmp_path):
    corpus, other = outside
    (tmp_path / "link").symlink_to(corpus)
    (other / "file link").symlink_to(corpus / "own")
    assert items_of(tmp_path / "link") == {"own": "own"}
    assert items_of(other / "file link") == {"file link": "own"}


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_a_path_that_is_no_file_and_no_directory_is_refused_without_waiting(outside, kind):
    corpus, _ = outside
    os.mkfifo(corpus / "pipe")
    for path in (corpus / "pipe", "/dev/zero"):
        with pytest.raises(CorpusError, match="not a regular file"):
            items_of(path, kind)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_a_directory_without_files_is_an_empty_corpus(tmp_path, kind):
    assert items_of(tmp_path, kind) == {}
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".gitkeep").touch()
    assert items_of(tmp_path, kind) == {}


def test_directories_nested_deeper_than_functions_may_be_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    Path("file").write_text("deep")
    os.chdir(tmp_path)
    try:
        assert list(items_of(tmp_path).values()) == ["deep"]
    finally:
        # pytest could not remove so deep a tree.
        subprocess.run(["rm", "-r", "d"], cwd=tmp_path, check=True)
