import pytest

from logitlake.pipeline.corpus.files import corpus_files

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
    return [file.source for file in corpus_files("c", str(root), patterns, ("**/*",))]


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
