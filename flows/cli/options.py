"""The options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.terminal.output import Format


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.find_root().obj = {"debug": True}
    return value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="LOGITLAKE_CONFIG",
        help="YAML file with the settings; default: ./logitlake.yaml if there is one.",
        show_default=False,
    ),
]


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.KEY=VALUE", help="Override a setting; the value is YAML. Repeatable."),
]


LakePath = Annotated[
    Path | None, typer.Option("--lake", "-l", help="Directory of the lake (lake.path).", show_default=False)
]


OutputFormat = Annotated[Format, typer.Option("--format", "-f", help="How results are written to standard output.")]


Debug = Annotated[bool, typer.Option("--debug", help="On an error, show where it came from.", callback=_remember_debug)]


MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Teacher tokens to spend at most (capture.max_tokens).", show_default=False),
]


MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", help="Start no unit after this time (capture.max_hours).", show_default=False),
]


TargetBytes = Annotated[
    float | None,
    typer.Option(
        "--target-bytes",
        help="Choose the threshold by a probe so that a token takes this many bytes (target.target_bytes).",
        show_default=False,
    ),
]
