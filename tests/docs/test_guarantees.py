"""docs/guarantees.md names tests that exist, and every test that kills, damages or floods something is named there."""

import ast
import re
from pathlib import Path

import pytest

PAGE = Path("docs/guarantees.md").read_text(encoding="utf-8")
PROMISES = PAGE.partition("## What was killed")[0]
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
FOLDERS = ("crash", "property", "integration")


def test_the_page_has_a_test_for_every_promise():
    without = [
        promise
        for promise in re.findall(r"^- \*\*(.+?)(?=^- \*\*|^#|\Z)", PROMISES, re.M | re.S)
        if "`tests/" not in promise
    ]
    assert without == []


@pytest.mark.parametrize("name", NAMED)
def test_every_named_test_exists(name):
    path, _, function = name.partition("::")
    assert Path(path).exists(), path
    if function:
        names = {
            node.name
            for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert function in names, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_of_hard_tests_is_left_out(folder):
    modules = {str(path) for path in Path("tests", folder).rglob("test_*.py")}
    assert modules <= {name.partition("::")[0] for name in NAMED}
