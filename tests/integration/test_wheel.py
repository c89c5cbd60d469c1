"""Wheel and sdist as a user installs them: a clean environment, and a directory with folders named like the rooms."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_teacher
from tests.users_directory import TYPED_ANSWERS, RowMaker, mypy_answers, write_users_directory

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def build(folder: Path, *arguments: str) -> Path:
    """What `python -m build` writes into an empty folder: the folder."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *arguments, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    (file,) = build(tmp_path_factory.mktemp("wheel"), "--wheel").glob("logitlake-*.whl")
    return file


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout and the wheel that is built from that sdist."""
    return build(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and nothing else of this checkout; what it depends on comes by path."""
    return install(tmp_path_factory.mktemp("environment"), str(wheel))


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with an editable installation of this checkout."""
    return install(tmp_path_factory.mktemp("editable"), "--no-build-isolation", "--editable", str(ROOT))


def install(folder: Path, *arguments: str) -> Path:
    """Make a virtual environment in a folder and install into it; returns the folder."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Paths in a .pth file come after the environment's own packages, and .pth files found there are not read again: an
    # editable installation of this checkout stays out.
    (Path(own.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", "--no-index"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A directory with folders of the rooms' names, which are none of the wheel's business."""
    for name in ("storage", "pipeline", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the foreign folder was imported')\n")
    return tmp_path


def run(environment: Path, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOGITLAKE"))}
    call = [str(environment / "bin" / command[0]), *command[1:]]
    return subprocess.run(call, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_code_the_sql_and_the_licence_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"logitlake"}
    assert {
        f"logitlake/{name}" for name in ("storage/lake/views.sql", "storage/lake/notes.sql", "flows/prefect.yaml")
    } <= set(names)
    page = ("page.html.j2", "blocks.html.j2", "passages.html.j2", "lineage.html.j2", "report.css", "report.js")
    assert {f"logitlake/flows/report/templates/{name}" for name in page} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_the_sdist_holds_each_file_of_the_package_once_and_no_links(wheel: Path, release: Path) -> None:
    (sdist,) = release.glob("logitlake-*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        files = [name.split("/", 1)[1] for name in archive.getnames()]
    package = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name]
    assert sorted(name for name in files if "/" in name and not name.startswith("docs/")) == sorted(
        set(package) - {"logitlake/flows/prefect.yaml"}
    )
    assert {"pyproject.toml", "prefect.yaml", "README.md", "LICENSE"} <= set(files)


def test_the_wheel_that_is_built_from_the_sdist_is_the_wheel_of_the_checkout(wheel: Path, release: Path) -> None:
    (rebuilt,) = release.glob("logitlake-*.whl")
    wheels = [zipfile.ZipFile(path) for path in (wheel, rebuilt)]
    contents = [{name: archive.read(name) for name in archive.namelist()} for archive in wheels]
    assert contents[0] == contents[1]


def test_the_command_works_from_a_directory_with_foreign_folders(environment: Path, foreign: Path) -> None:
    done = run(environment, ["logitlake", "--help"], foreign)
    assert done.returncode == 0, done.stderr
    assert "capture" in done.stdout
    shown = run(environment, ["logitlake", "show", "config"], foreign)
    assert shown.returncode == 0, shown.stderr
    missing = run(environment, ["logitlake", "sql", "SELECT 1"], foreign)
    assert missing.returncode == 5, missing.stderr


@pytest.mark.parametrize("installation", ["environment", "editable"])
def test_a_users_script_beside_folders_of_the_same_names_trains(
    request: pytest.FixtureRequest, installation: str, tmp_path: Path, make_rows: RowMaker
) -> None:
    installed: Path = request.getfixturevalue(installation)
    write_users_directory(tmp_path, make_rows)
    done = run(installed, ["python", "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    path, first, last = done.stdout.split()
    assert path.startswith(str(installed if installation == "environment" else ROOT))
    assert float(last) < float(first) - 0.1


@pytest.mark.parametrize("installation", ["environment", "editable"])
def test_a_type_checker_sees_the_types_of_the_api(
    request: pytest.FixtureRequest, installation: str, tmp_path: Path, make_rows: RowMaker
) -> None:
    python = request.getfixturevalue(installation) / "bin" / "python"
    assert mypy_answers(python, write_users_directory(tmp_path, make_rows)) == TYPED_ANSWERS


def test_a_lake_is_made_and_asked_by_the_installed_command(environment: Path, foreign: Path) -> None:
    script = (
        "from pathlib import Path; from logitlake.storage.lake.lake import Lake; "
        "from logitlake.storage.connection.location import LakeLocation; "
        "Lake.create(LakeLocation.resolve(Path('lake')), held_out_salt='s', held_out_share=0.1).close()"
    )
    # -P keeps the current directory out of the path, as an installed command does by itself.
    made = run(environment, ["python", "-P", "-c", script], foreign)
    assert made.returncode == 0, made.stderr
    asked = run(environment, ["logitlake", "sql", "SELECT count(*) AS n FROM sequences", "--format", "csv"], foreign)
    assert (asked.returncode, asked.stdout) == (0, "n\n0\n"), asked.stderr


def test_no_module_is_imported_from_this_checkout(environment: Path, tmp_path: Path) -> None:
    modules = ("logitlake.flows.cli.app", "logitlake.pipeline.api", "logitlake.storage.lake.lake")
    script = f"import {', '.join(modules)}; print({'.__file__, '.join(modules)}.__file__)"
    done = run(environment, ["python", "-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(environment)) for path in done.stdout.split()), done.stdout


def test_the_lines_of_the_readme_lead_from_the_checkout_to_a_student_and_a_report(tmp_path: Path) -> None:
    """Every line as it stands. A directory stands for the model of the hub; what is installed comes by path."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install, documents, lines = re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)
    teacher = re.search(r"--teacher (\S+)", lines)
    assert teacher
    write_tiny_teacher(tmp_path / "first" / teacher[1])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOGITLAKE"))}
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_IGNORE_INSTALLED": "1"}
    own = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
    }
    script = f"set -e\ncd '{ROOT}'\n{install}\ncd '{tmp_path}'\n{documents}\n{lines}"
    done = subprocess.run(
        ["bash", "-c", script], env={**clean, **pip, **own}, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert (tmp_path / "first" / "student" / "config.json").exists()
    assert (tmp_path / "first" / "lake" / "report.html").exists()
    section = readme.partition("## A first result of your own\n")[2].partition("\n## ")[0]
    shown = [
        line.strip() for block in re.findall(r"```text\n(.*?)```", section, re.DOTALL) for line in block.split("\n")
    ]
    labels = {re.split(r"  +|: ", line)[0] for line in shown if line.strip(" ─")}
    assert len(labels) > 10
    assert sorted(label for label in labels if label not in printed) == []
