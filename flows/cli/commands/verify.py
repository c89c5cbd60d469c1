"""`logitlake verify`: compare the stored bytes with what was committed."""

from dataclasses import dataclass
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.flows.terminal.progress import watched
from logitlake.storage.errors import IntegrityError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.verify import count_units
from logitlake.storage.upkeep.verify import verify as check


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(ResultOptions):
    """How much is checked."""

    sample: Annotated[
        float,
        typer.Option("--sample", min=0.0, max=1.0, help="Share of the work units to check, always the same ones."),
    ] = 1.0


def verify(options: VerifyOptions) -> None:
    """Compare every stored row with its checksum, and the catalog's documents with their rows.

    Prints the damaged work units; exit code 7 if there are any.
    """
    sample, form = options.sample, options.form
    with Lake.open(location_of(options.config())) as lake:
        n_units = count_units(lake, sample=sample)
        checks = list(watched(check(lake, sample=sample), "verify", total=n_units, unit="units"))
    bad = [unit for unit in checks if unit.problem]
    n_sequences = sum(unit.n_sequences for unit in checks)
    rows = [
        {"unit_id": unit.unit_id, "recipe_id": unit.recipe_id, "n_sequences": unit.n_sequences, "problem": unit.problem}
        for unit in bad
    ]
    if bad or form is not Format.TABLE:
        print_rows(rows, form, columns=["unit_id", "recipe_id", "n_sequences", "problem"])
    if bad:
        raise IntegrityError(
            f"{len(bad)} of {len(checks)} work units differ from what was committed: restore the named files from a "
            "backup, or forget their documents and capture again"
        )
    say(f"{len(checks):,} work units, {n_sequences:,} sequences: every row matches its checksum")
