"""Every command: its module, one line about it, and the examples at the end of its `--help`.

Kept apart from the commands, so that help and completion import none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from keyword import iskeyword

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One command. `module` holds its function.

    `light`: it only queries the lake and should end within a second (see logitlake.flows.cli.lazy_imports).
    """

    name: str
    module: str
    summary: str
    examples: tuple[str, ...]
    light: bool = False

    @property
    def function(self) -> str:
        """The command's function; the name of one that is a word of Python ends in an underscore."""
        return f"{self.name}_" if iskeyword(self.name) else self.name.replace("-", "_")

    def load(self, options: dict[str, object]) -> typer.core.TyperCommand:
        """Import the command. `options` are the program's own Typer settings."""
        # Imported here: the help and completion of the program itself need no command.
        from importlib import import_module

        from logitlake.flows.cli.options import with_options

        single = typer.Typer(add_completion=False, **options)  # type: ignore[arg-type]
        # \b keeps the lines below as they are.
        epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in self.examples)])
        function = getattr(import_module(self.module), self.function)
        single.command(name=self.name, epilog=epilog)(with_options(function))
        return typer.main.get_command(single)  # type: ignore[return-value]


COMMANDS: dict[str, tuple[Entry, ...]] = {
    "Commands": (
        Entry(
            name="init",
            module="logitlake.flows.cli.commands.init",
            summary="write a first settings file for a directory",
            light=True,
            examples=("logitlake init data", "logitlake init data --teacher HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        ),
        Entry(
            name="plan",
            module="logitlake.flows.cli.commands.plan",
            summary="show what a capture would compute, write and cost",
            examples=("logitlake plan", "logitlake plan --price-per-hour 2.50 --format json"),
        ),
        Entry(
            name="check",
            module="logitlake.flows.cli.commands.check",
            summary="compare the teacher with plain transformers",
            examples=("logitlake check", "logitlake check --documents 20 --format json"),
        ),
        Entry(
            name="generate",
            module="logitlake.flows.cli.commands.generate",
            summary="let a model write completions for prompts",
            examples=("logitlake generate --plan", "logitlake generate --samples 4 --writer current"),
        ),
        Entry(
            name="capture",
            module="logitlake.flows.cli.commands.capture",
            summary="run the teacher over new documents",
            examples=("logitlake capture --max-hours 8", "logitlake capture --set corpora.notes.path=/data/notes"),
        ),
        Entry(
            name="train",
            module="logitlake.flows.cli.commands.train",
            summary="train a student from the lake, without the teacher",
            examples=(
                "logitlake train --layers 10 --output students/first",
                "logitlake train --where \"corpus = 'notes' AND mean_entropy > 1.0\"",
                "logitlake train --query hardest.sql --output students/hardest",
            ),
        ),
        Entry(
            name="evaluate",
            module="logitlake.flows.cli.commands.evaluate",
            summary="measure a student on held-out documents",
            examples=("logitlake evaluate students/first", "logitlake evaluate 3f2a --no-teacher --format json"),
        ),
    ),
    "Every night": (
        Entry(
            name="redistill",
            module="logitlake.flows.cli.commands.redistill",
            summary="capture, train on the new rows, promote if no worse",
            examples=("logitlake redistill", "logitlake redistill --max-hours 6 --alias current"),
        ),
        Entry(
            name="serve",
            module="logitlake.flows.cli.commands.serve",
            summary="run capture, redistill and maintain on schedule",
            examples=("logitlake serve", "logitlake serve --port 4300"),
        ),
        Entry(
            name="promote",
            module="logitlake.flows.cli.commands.promote",
            summary="point an alias at a student",
            light=True,
            examples=('logitlake promote 3f2a --reason "better on our own tests"',),
        ),
        Entry(
            name="rollback",
            module="logitlake.flows.cli.commands.promote",
            summary="point an alias at its previous student",
            light=True,
            examples=("logitlake rollback",),
        ),
    ),
    "Ask": (
        Entry(
            name="show",
            module="logitlake.flows.cli.commands.show",
            summary="show the lake, lists, and details of one thing",
            light=True,
            examples=(
                "logitlake show lake",
                "logitlake show runs --limit 5",
                "logitlake show student current",
                "logitlake show document notes/2024/march.txt",
                "logitlake show config > logitlake.yaml",
            ),
        ),
        Entry(
            name="report",
            module="logitlake.flows.cli.commands.report",
            summary="write one self-contained HTML page about the lake",
            examples=("logitlake report", "logitlake report --output report.html"),
        ),
        Entry(
            name="sql",
            module="logitlake.flows.cli.commands.sql",
            summary="query the lake in SQL, read-only",
            light=True,
            examples=(
                'logitlake sql "SELECT corpus, count(*) FROM sequences GROUP BY ALL"',
                "logitlake sql --file question.sql --format csv",
            ),
        ),
        Entry(
            name="export",
            module="logitlake.flows.cli.commands.export",
            summary="write rows as a data set of Parquet files",
            examples=(
                "logitlake export dataset --student current",
                "logitlake export dataset --as huggingface --push me/targets",
                "logitlake export held --held-out",
            ),
        ),
    ),
    "Other programs": (
        Entry(
            name="import",
            module="logitlake.flows.cli.commands.import_targets",
            summary="read targets that another program wrote",
            examples=("logitlake import kd --from distillkit --teacher Qwen3 --tokenizer qwen3",),
        ),
    ),
    "Upkeep": (
        Entry(
            name="verify",
            module="logitlake.flows.cli.commands.verify",
            summary="compare stored rows with their checksums",
            light=True,
            examples=("logitlake verify", "logitlake verify --sample 0.1"),
        ),
        Entry(
            name="repair",
            module="logitlake.flows.cli.commands.repair",
            summary="mend what verify finds",
            light=True,
            examples=("logitlake repair --dry-run", "logitlake repair"),
        ),
        Entry(
            name="maintain",
            module="logitlake.flows.cli.commands.maintain",
            summary="merge small shards, remove unreferenced files",
            examples=("logitlake maintain --dry-run", "logitlake maintain --verify-all"),
        ),
        Entry(
            name="forget",
            module="logitlake.flows.cli.commands.forget",
            summary="forget documents for ever",
            light=True,
            examples=(
                "logitlake forget --source notes/2024/ --dry-run",
                'logitlake forget 8c1f0a77d2e9 --reason "asked for by its author"',
            ),
        ),
        Entry(
            name="retire",
            module="logitlake.flows.cli.commands.forget",
            summary="remove all rows cached under one recipe",
            light=True,
            examples=("logitlake retire 9b1c", "logitlake retire 9b1c --yes"),
        ),
        Entry(
            name="copy",
            module="logitlake.flows.cli.commands.copy",
            summary="copy the lake to another place, or update the copy",
            light=True,
            examples=("logitlake copy /backup/lake --dry-run", "logitlake copy cluster.yaml"),
        ),
        Entry(
            name="rebuild",
            module="logitlake.flows.cli.commands.rebuild",
            summary="make a lost catalog again from the shards",
            light=True,
            examples=("logitlake rebuild --lake lake",),
        ),
    ),
    "Try it": (
        Entry(
            name="demo",
            module="logitlake.flows.cli.commands.demo",
            summary="try everything on a real teacher and real text",
            examples=("logitlake demo --directory trial",),
        ),
    ),
}


def entries() -> Iterator[Entry]:
    """Every command in the order of the help."""
    for section in COMMANDS.values():
        yield from section
