"""Plug-ins that are broken, doubled or of the wrong kind are told with the distribution they come from."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logitlake.pipeline.settings.registry import Registry
from logitlake.storage.errors import SettingsError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one module and one entry point on the path."""

    def place(distribution: str, module: str, code: str, entry: str) -> None:
        directory = tmp_path / distribution
        metadata = directory / f"{distribution}-1.5.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[test.things]\n{entry}\n")
        (directory / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(directory)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return place


def registry() -> Registry:
    return Registry("thing", group="test.things", built_in={"own": "json:dumps"})


def test_a_built_in_name_and_that_of_a_plug_in_are_loaded_alike(install: Install) -> None:
    install("first_things", "first_things_a", "VALUE = 7", "seven = first_things_a:VALUE")
    things = registry()
    assert things.names() == ["own", "seven"]
    assert (things.load("own").__name__, things.load("seven")) == ("dumps", 7)


def test_a_plug_in_is_not_imported_before_it_is_used(install: Install) -> None:
    install("first_things", "first_things_b", "raise RuntimeError('imported')", "b = first_things_b:VALUE")
    assert registry().load("own").__name__ == "dumps"
    assert "first_things_b" not in sys.modules


def test_a_broken_plug_in_is_told_with_its_distribution_and_what_to_do(install: Install) -> None:
    install("first_things", "first_things_c", "import no_such_library", "c = first_things_c:VALUE")
    with pytest.raises(SettingsError) as broken:
        registry().load("c")
    message = str(broken.value)
    for part in ("thing 'c' of first_things 1.5", "no_such_library", "first_things_c:VALUE", "uninstall"):
        assert part in message


@pytest.mark.parametrize("name", ["own", "twice"])
def test_a_name_that_two_provide_is_refused_with_both(install: Install, name: str) -> None:
    install("first_things", "first_things_d", "VALUE = 1", f"{name} = first_things_d:VALUE")
    if name == "twice":
        install("other_things", "other_things_d", "VALUE = 2", f"{name} = other_things_d:VALUE")
    with pytest.raises(SettingsError) as refused:
        registry().load(name)
    other = "other_things 1.5" if name == "twice" else "logitlake itself"
    assert "first_things 1.5" in str(refused.value)
    assert other in str(refused.value)


def test_an_unknown_name_is_told_with_the_names_there_are() -> None:
    with pytest.raises(SettingsError, match=r"unknown thing 'x', expected one of own"):
        registry().load("x")
