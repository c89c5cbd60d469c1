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
from logitlake.storage.upkeep.history import examine, refusal, unknown_files
from logitlake.storage.upkeep.verify import count_units, verify_tables
from logitlake.storage.upkeep.verify import verify as check


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(ResultOptions):
    """How much is checked."""

    sample: Annotated[
        float,
        typer.Option(
            "--sample",
            min=0.0,
            max=1.0,
            help="Share of the work units to check, always the same ones; small tables whole.",
        ),
    ] = 1.0


def verify(options: VerifyOptions) -> None:
    """Compare every stored row with its checksum or hash, the documents with their rows, the catalog with its files.

    Prints the work units and tables that are damaged, and commits in the data path that the catalog does not know; exit
    code 7 if there is one.
    """
    sample, form = options.sample, options.form
    with Lake.open(location_of(options.config())) as lake:
        n_units = count_units(lake, sample=sample)
        checks = list(watched(check(lake, sample=sample), "verify", total=n_units, unit="units"))
        tables = list(verify_tables(lake))
        missing = examine(lake, unknown_files(lake)).missing
        older = lake.missing_history if lake.n_missing_commits else ""
        unknown = refusal(lake, missing) if missing else older
    bad = [unit for unit in checks if unit.problem]
    n_sequences = sum(unit.n_sequences for unit in checks)
    rows: list[dict[str, object]] = [
        {
            "table": "sequences",
            "unit_id": unit.unit_id,
            "recipe_id": unit.recipe_id,
            "n_sequences": unit.n_sequences,
            "problem": unit.problem,
        }
        for unit in bad
    ]
    columns = ["table", "unit_id", "recipe_id", "n_sequences", "problem"]
    for table in tables:
        if table.problem:
            rows.append({**dict.fromkeys(columns), "table": table.table, "problem": table.problem})
    absent = [f"not in the catalog: {m}" for m in missing] + ([older] if older else [])
    rows += [{**dict.fromkeys(columns), "table": "catalog", "problem": problem} for problem in absent]
    if rows or form is not Format.TABLE:
        print_rows(rows, form, columns=columns)
    if without_hash := sum(table.n_without_hash for table in tables):
        say(f"{without_hash:,} rows of small tables carry no hash: `logitlake maintain` adds it")
    if old_rows := sum(unit.n_without_hash for unit in checks):
        say(
            f"{old_rows:,} sequences are of format 1, whose checksum does not cover every column: `logitlake maintain` "
            "brings them to format 2"
        )
    if damaged := [table.problem for table in tables if table.problem]:
        raise IntegrityError(f"{'; '.join(damaged)}: restore the named files from a backup")
    if unknown:
        raise IntegrityError(unknown)
    if bad:
        raise IntegrityError(
            f"{len(bad)} of {len(checks)} work units differ from what was committed: restore the named files from a "
            "backup, or forget their documents and capture again"
        )
    say(f"{len(checks):,} work units, {n_sequences:,} sequences: every row matches its checksum")
