"""What can be typed is documented, and what is documented, examples too, can be typed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from logitlake.flows.cli.app import app
from logitlake.flows.cli.command_table import entries
from logitlake.storage import errors

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
PROGRAM: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = dict(PROGRAM.commands)
EXAMPLES = [(entry.name, example) for entry in entries() for example in entry.examples]


def section_of(command: str) -> str:
    """The text under the command's own heading."""
    found = re.search(rf"^## `logitlake {command}`$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no heading `logitlake {command}`"
    return found[1]


def examples_of_the_reference() -> Iterator[str]:
    """Every line of a code block that calls the program."""
    for block in re.findall(r"^```text\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL):
        yield from (line for line in block.splitlines() if re.match(r"logitlake [a-z]", line))


def parse(example: str) -> str:
    """Parse what a shell would hand to the program; returns the command's name. Raises what typer raises."""
    words = shlex.split(example)
    program, name, *arguments = words[: next((n for n, word in enumerate(words) if word in (">", "|")), len(words))]
    assert program == "logitlake"
    with PROGRAM.make_context("logitlake", [name, *arguments]) as context:
        COMMANDS[name].make_context(name, arguments, parent=context).close()
    return name


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_every_option_is_in_the_reference(command: str) -> None:
    text = section_of(command) + section_of_common_options()
    for parameter in COMMANDS[command].params:
        for name in [option for option in parameter.opts if option.startswith("--")]:
            assert f"`{name}" in text, f"docs/cli.md says nothing of `{name}` under `logitlake {command}`"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_says_what_it_does(command: str) -> None:
    assert len(COMMANDS[command].help) > 60


@pytest.mark.parametrize(("command", "example"), EXAMPLES)
def test_every_example_of_the_help_parses_and_fits_a_terminal(command: str, example: str) -> None:
    assert parse(example) == command
    assert len(example) <= 76


@pytest.mark.parametrize("example", list(examples_of_the_reference()))
def test_every_example_of_the_reference_parses(example: str) -> None:
    parse(example)


def test_every_command_has_an_example_in_its_help_as_it_is_typed() -> None:
    assert {name for name, _ in EXAMPLES} == set(COMMANDS)
    for name, example in EXAMPLES:
        with PROGRAM.make_context("logitlake", [name], resilient_parsing=True) as context:
            assert f"\n    {example}\n" in COMMANDS[name].get_help(context) + "\n"


def test_an_example_with_a_slip_of_the_pen_would_be_found() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse("logitlake plan --prize-per-hour 3")


def test_every_command_has_a_line_in_the_help_that_fits_a_terminal() -> None:
    with PROGRAM.make_context("logitlake", [], resilient_parsing=True) as context:
        lines = PROGRAM.get_help(context).splitlines()
    for entry in entries():
        assert any(line.startswith(f"  {entry.name} ") and line.endswith(entry.summary) for line in lines), entry.name
    assert max(map(len, lines)) <= 80


def test_the_reference_names_no_command_or_option_that_does_not_exist() -> None:
    assert set(re.findall(r"^## `logitlake (\w+)`$", REFERENCE, re.MULTILINE)) == set(COMMANDS)
    options = {name for command in COMMANDS.values() for parameter in command.params for name in parameter.opts}
    options |= {
        name for command in COMMANDS.values() for parameter in command.params for name in parameter.secondary_opts
    }
    options |= {name for parameter in PROGRAM.params for name in parameter.opts} | {"--help"}
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
