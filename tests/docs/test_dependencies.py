"""Dependencies: declared and used, pinned within their range, under a permissive licence."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", Path("constraints.txt").read_text(encoding="utf-8"), re.M)
}
INSTALLED: dict[str, Distribution] = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC"),
    *("LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"),
}
_MPL = "MPL-2.0 covers changes of its own files only; we change none"
# A licence that is not in the list above, and why we may use the package all the same.
EXCEPTIONS = {
    "certifi": _MPL,
    "hypothesis": f"{_MPL}; for tests only",
    "orjson": _MPL,
    "pathspec": f"{_MPL}; for tests only",
    "text-unidecode": "the Artistic License may be chosen in place of the GPL; Prefect requires it",
    "tqdm": _MPL,
}
# What packages without an SPDX expression write, as an SPDX identifier: in classifiers, then in free text.
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_TEXTS = {"Apache 2.0 License": "Apache-2.0", "BSD": "BSD-3-Clause"}

# Not imported by name, and needed.
NOT_IMPORTED = {
    "duckdb-extension-ducklake": "DuckDB loads its file",
    "duckdb-extension-httpfs": "DuckDB loads its file",
    "duckdb-extension-postgres-scanner": "DuckDB loads its file",
    "duckdb-extension-sqlite-scanner": "DuckDB loads its file",
    "fastapi": "a bound on what Prefect imports",
    "sqlalchemy": "a bound on what Prefect imports",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry finds it by its entry point",
    "build": "run by tests/integration/test_wheel.py",
    "duckdb-cli": "run by benchmarks/questions.py",
    "hatchling": "builds the wheel in tests/integration/test_wheel.py",
    "import-linter": "run by `make check`",
    "mypy": "run by `make check`",
    "nanio": "the S3 server of tests/integration/conftest.py",
    "pandas": "imported by code that the documentation shows",
    "pip-audit": "run by `make audit`",
    "pytest-xdist": "run by `make test`",
    "ruff": "run by `make check`",
    "types-pyyaml": "read by mypy",
}

# Imported by programs that run in an environment of their own, which `make vllm` makes or the user names.
ELSEWHERE = {"vllm"}


def licences(found: Distribution) -> set[str]:
    """The SPDX identifiers in the expression, the classifiers or the licence text of a distribution."""
    if expression := found.metadata.get("License-Expression"):
        return set(re.split(r"[\s()]+", expression)) - {"", "AND", "OR", "WITH"}
    classifiers = [line.split(" :: ")[-1] for line in found.metadata.get_all("Classifier", []) if "License ::" in line]
    if classifiers:
        return {_CLASSIFIERS.get(name, name) for name in classifiers}
    text = found.metadata.get("License", "no licence")
    if text in _TEXTS:
        return {_TEXTS[text]}
    return set(re.split(r" AND | OR ", text))


def imported(*roots: str) -> set[str]:
    """The top-level names that the Python files below `roots` import, without ours and without the standard library."""
    files = [file for root in roots for file in Path(root).rglob("*.py")]
    assert files
    names = {name for file in files for name in _imported_by(file)}
    return names - sys.stdlib_module_names - ELSEWHERE - {"logitlake", "tests", "benchmarks"}


def _imported_by(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def distributions_of(names: set[str]) -> dict[str, set[str]]:
    """The distributions that hold each imported name; one that is not installed has the name itself."""
    held_by = packages_distributions()
    return {name: {canonicalize_name(holder) for holder in held_by.get(name, (name,))} for name in names}


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of the package and of some extras, by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


CODE = imported("storage", "pipeline", "flows")
ALL = CODE | imported("tests", "benchmarks")


@pytest.mark.parametrize("name", sorted(PINS.keys() & INSTALLED.keys() - EXCEPTIONS.keys()))
def test_every_pinned_package_has_a_permissive_licence(name):
    found = licences(INSTALLED[name])
    assert found and found <= PERMISSIVE, f"{name}: {found}: replace it, or name it in EXCEPTIONS with the reason"


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_every_exception_is_still_one(name):
    assert name in PINS and not licences(INSTALLED[name]) <= PERMISSIVE


@pytest.mark.parametrize("requirement", list(declared(*EXTRAS).values()), ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement):
    name = canonicalize_name(requirement.name)
    assert name in PINS, f"{name}: constraints.txt has no line for it"
    assert requirement.specifier.contains(PINS[name], prereleases=True)


@pytest.mark.parametrize(
    ("names", "extras"),
    [(CODE, ("metrics", "fast")), (ALL, ("metrics", "fast", "dev", "bench"))],
    ids=["package", "tests"],
)
def test_every_import_is_declared(names, extras):
    known = declared(*extras).keys()
    missing = {name: holders for name, holders in distributions_of(names).items() if not holders & known}
    assert missing == {}


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_declared_dependency_is_used(extra):
    """What only tests and benchmarks import is no dependency of the package."""
    by_package = extra in ("", "metrics", "fast")
    needed = set().union(*distributions_of(CODE if by_package else ALL).values()) | NOT_IMPORTED.keys()
    lines = EXTRAS[extra] if extra else PROJECT["dependencies"]
    assert {canonicalize_name(Requirement(line).name) for line in lines} - needed == set()


def test_every_dependency_that_is_not_imported_is_declared():
    assert NOT_IMPORTED.keys() <= declared(*EXTRAS).keys()
