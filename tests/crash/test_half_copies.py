"""A copy of a lake that was killed half-way is noticed, and never taken for the lake."""

import shutil
from pathlib import Path

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError, LakeError, LakeMissingError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.verify import verify, verify_tables
from logitlake.storage.writing.runs import note_run

WHOLE = Path(__file__).parents[1] / "golden" / "format-2" / "lake"
FILES = sorted(path.relative_to(WHOLE) for path in (WHOLE / "data").rglob("*") if path.is_file())
# The notes of a lake come before its tables, and name no document and no recipe by themselves.
FIRST_RECIPE = next(number for number, path in enumerate(FILES, start=1) if "recipes" in path.parts)
LAST_OF_A_TABLE = max(number for number, path in enumerate(FILES) if "store" in path.parts)


def copy(files: list[Path], target: Path) -> LakeLocation:
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(WHOLE / file, target / file)
    return LakeLocation.resolve(target)


def problems(location: LakeLocation) -> list[str]:
    """What `logitlake verify` would say."""
    try:
        with Lake.open(location) as lake:
            return [check.problem for check in (*verify(lake), *verify_tables(lake)) if check.problem]
    except LakeError as error:
        return [str(error)]


@pytest.mark.parametrize("n_files", [FIRST_RECIPE, len(FILES) // 2, len(FILES)])
def test_a_copy_without_its_catalog_is_no_lake_and_no_new_one_is_made_over_it(tmp_path, n_files):
    location = copy(FILES[:n_files], tmp_path / "lake")
    for read_only in (True, False):
        with pytest.raises(LakeMissingError):
            Lake.open(location, read_only=read_only)
    with pytest.raises(LakeError, match="complete the copy"):
        Lake.create(location, held_out_salt="another", held_out_share=0.5)
    assert not [path for path in FILES[n_files:] if (tmp_path / "lake" / path).exists()]
    shutil.copytree(WHOLE, tmp_path / "lake", dirs_exist_ok=True)
    assert problems(location) == []


@pytest.mark.parametrize("n_files", [0, len(FILES) // 2, LAST_OF_A_TABLE])
def test_a_copy_whose_catalog_came_first_is_damaged(tmp_path, n_files):
    location = copy([Path("catalog.sqlite"), *FILES[:n_files]], tmp_path / "lake")
    assert problems(location)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_catalog_of_which_a_part_was_copied_is_refused_or_damaged(tmp_path, share):
    location = copy(FILES, tmp_path / "lake")
    content = (WHOLE / "catalog.sqlite").read_bytes()
    (tmp_path / "lake" / "catalog.sqlite").write_bytes(content[: int(len(content) * share)])
    assert problems(location)
    with pytest.raises((LakeError, IntegrityError)), Lake.open(location, read_only=False) as lake:
        note_run(lake, "run", "started", kind="capture", recipe_id=None)
