"""Everything is imported as `logitlake.…`: beside anybody's own storage, pipeline and flows, and never twice."""

import json
import os
import pkgutil
import subprocess
import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

import logitlake
from logitlake.pipeline import api
from tests.users_directory import TYPED_ANSWERS, mypy_answers, write_users_directory

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("flows", "pipeline", "storage")
HEAVY = ("torch", "transformers", "duckdb", "pyarrow", "numpy", "pydantic", "prefect", "typer")


def run(arguments: list[str], directory: Path) -> str:
    """What Python prints with this checkout on its path, as the editable installation puts it there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_script_beside_folders_of_the_same_names_trains(tmp_path, make_rows):
    directory = write_users_directory(tmp_path, make_rows)
    path, first, last = run(["train.py"], directory).split()
    assert Path(path) == ROOT / "logitlake" / "__init__.py"
    assert float(last) < float(first) - 0.1


def test_a_type_checker_sees_the_types_of_the_api(tmp_path, make_rows):
    """Of the installed package, which in a checkout is the editable installation."""
    directory = write_users_directory(tmp_path, make_rows)
    assert mypy_answers(Path(sys.executable), directory) == TYPED_ANSWERS


def test_importing_the_package_loads_nothing_that_is_heavy(tmp_path):
    script = (
        "import json, sys; before = set(sys.modules); import logitlake; print(json.dumps([*set(sys.modules) - before]))"
    )
    loaded = json.loads(run(["-c", script], tmp_path))
    assert "logitlake" in loaded
    assert [name for name in loaded if name.split(".")[0] in HEAVY or name.startswith("logitlake.")] == []


def test_the_package_has_the_names_of_the_api_and_no_others():
    assert logitlake.__all__ == api.__all__
    assert all(getattr(logitlake, name) is getattr(api, name) for name in logitlake.__all__)
    assert set(logitlake.__all__) <= set(dir(logitlake))
    with pytest.raises(AttributeError, match="'logitlake' has no attribute 'open_row'"):
        logitlake.open_row  # noqa: B018


def test_no_module_is_imported_under_two_names():
    """Of this process, which has imported tests and fixtures too; after every module of the package."""
    for module in pkgutil.walk_packages(logitlake.__path__, "logitlake."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    names = defaultdict(list)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        path = Path(os.path.realpath(file)) if isinstance(file, str) else Path()
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in (*ROOMS, "logitlake"):
            names[str(path)].append(name)
    assert len(names) > 200
    assert {file: found for file, found in names.items() if len(found) > 1} == {}
    assert not set(ROOMS) & set(sys.modules)


@pytest.mark.parametrize("room", ROOMS)
def test_a_test_that_imports_a_room_under_its_own_name_fails(room):
    with pytest.raises(ImportError, match=f"import logitlake.{room}"):
        import_module(f"{room}.__init__" if room == "flows" else room)
