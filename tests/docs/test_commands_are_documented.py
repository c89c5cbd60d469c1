"""What can be typed is documented, and what is documented can be typed."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import app
from storage import errors

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def section_of(command: str) -> str:
    """The text under the command's own heading."""
    found = re.search(rf"^## `logitlake {command}`$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no heading `logitlake {command}`"
    return found[1]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_every_option_is_in_the_reference(command: str) -> None:
    text = section_of(command) + section_of_common_options()
    for parameter in COMMANDS[command].params:
        for name in [option for option in parameter.opts if option.startswith("--")]:
            assert f"`{name}" in text, f"docs/cli.md says nothing of `{name}` under `logitlake {command}`"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_says_what_it_does(command: str) -> None:
    assert len(COMMANDS[command].help) > 60


def test_the_reference_names_no_command_or_option_that_does_not_exist() -> None:
    assert set(re.findall(r"^## `logitlake (\w+)`$", REFERENCE, re.MULTILINE)) == set(COMMANDS)
    options = {name for command in COMMANDS.values() for parameter in command.params for name in parameter.opts}
    options |= {
        name for command in COMMANDS.values() for parameter in command.params for name in parameter.secondary_opts
    }
    options |= {"--version", "--help"}
    assert set(re.findall(r"`(--[a-z-]+)", REFERENCE)) <= options


def test_every_exit_code_is_in_the_reference() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    codes = {kind.exit_code for kind in kinds if hasattr(kind, "exit_code")}
    for code in sorted(codes | {0, 130}):
        assert f"| {code} |" in REFERENCE


def section_of_common_options() -> str:
    found = re.search(r"^## Options of every command$(.*?)(?=^## )", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]
