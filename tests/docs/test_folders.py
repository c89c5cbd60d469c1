"""The pages about the code name files and folders that exist, and every folder of the rooms."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("storage", "pipeline", "flows")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/operations.md"])
def test_every_path_of_the_code_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(ROOMS)}|logitlake|tests|benchmarks)/[\w./-]*)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_architecture_has_every_folder_of_a_room(room: str) -> None:
    section = ARCHITECTURE.partition(f"### {room}/\n")[2].partition("\n#")[0]
    named = set(re.findall(r"`(\w+)/`", section))
    assert named == {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}


def test_no_code_and_no_page_imports_a_room_under_its_own_name() -> None:
    pattern = re.compile(rf"^\s*(?:>>> )?(?:from|import) (?:{'|'.join(ROOMS)})\b", re.MULTILINE)
    folders = (*ROOMS, "logitlake", "tests", "benchmarks", "docs")
    files = [file for name in folders for kind in ("*.py", "*.md") for file in (ROOT / name).rglob(kind)]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found = [str(file) for file in files if pattern.search(file.read_text(encoding="utf-8"))]
    assert found == [str(ROOT / "tests" / "users_directory.py")], "whose folders are the user's own"
