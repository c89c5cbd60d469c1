"""A student whose files were damaged is not promoted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from logitlake.pipeline.students.file_hashes import hash_files
from tests.strange_lake import STUDENTS, make_strange_lake


@pytest.mark.parametrize(
    "damage", ["bit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("", "cut", "removed"))]
)
def test_a_student_is_promoted_only_with_the_files_that_were_trained(cli: Any, tmp_path: Path, damage: str) -> None:
    make_strange_lake(tmp_path / "lake")
    weights = tmp_path / "lake" / "students" / STUDENTS[0] / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    facts = {"student_id": STUDENTS[0], "files": hash_files(weights.parent)}
    (weights.parent / "logitlake.json").write_text(json.dumps(facts))
    if damage == "removed":
        weights.unlink()
    elif damage:
        weights.write_bytes(bytes(999) + (b"\x01" if damage == "bit" else b""))
    done = cli("promote", STUDENTS[0], "--set", "lake.path=lake")
    assert (done.exit_code, "model.safetensors" in done.stderr) == ((7, True) if damage else (0, False)), done.stderr
