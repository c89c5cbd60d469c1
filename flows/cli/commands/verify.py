"""`logitlake verify`: compare the stored bytes with what was committed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import duckdb
import typer

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.flows.terminal.progress import watched
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.file_statistics import FileCheck, check_statistics
from logitlake.storage.verification.inspection import ADVICE, Inspection, inspect, is_news, record

_COLUMNS = ["table", "unit_id", "recipe_id", "n_sequences", "documents", "problem"]


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

    Prints the work units, tables and files that are damaged, and commits in the data path that the catalog does not
    know; exit code 7 if there is one. The view `damage` and `logitlake show` know then what is damaged; no other row is
    changed.
    """
    location, form = location_of(options.config()), options.form
    with Lake.open(location) as lake:
        found = inspect(
            lake,
            sample=options.sample,
            watch=lambda checks, total: watched(checks, "verify", total=total, unit="units"),
        )
        files = [file for file in check_statistics(lake) if file.problem]
    _record(location, found)
    rows = _rows(found, files)
    if rows or form is not Format.TABLE:
        print_rows(rows, form, columns=_COLUMNS)
    _say_what_has_no_hash(found)
    _raise_for_damage(found, files)
    n_sequences = sum(unit.n_sequences for unit in found.units)
    say(f"{len(found.units):,} work units, {n_sequences:,} sequences: every row matches its checksum")


def _record(location: LakeLocation, found: Inspection) -> None:
    """Let SQL, `show` and `report` know what is damaged, and what is not any more; a lake that can't be written is
    checked all the same."""
    try:
        with Lake.open(location) as lake:
            if not is_news(lake, found):
                return
        with Lake.open(location, read_only=False) as lake:
            record(lake, found)
    except (LakeError, OSError, duckdb.Error) as error:
        say(f"what was found could not be recorded in the lake: {error}")


def _rows(found: Inspection, files: Sequence[FileCheck]) -> list[dict[str, object]]:
    lost = {
        unit.unit_id: [d.doc_id for d in found.shards.lost if d.unit_id == unit.unit_id] for unit in found.damaged_units
    }
    nothing = dict.fromkeys(_COLUMNS)
    rows: list[dict[str, object]] = [
        {
            "table": "sequences",
            "unit_id": unit.unit_id,
            "recipe_id": unit.recipe_id,
            "n_sequences": unit.n_sequences,
            "documents": lost[unit.unit_id],
            "problem": unit.problem,
        }
        for unit in found.damaged_units
    ]
    rows += [
        {**nothing, "table": "sequences", "problem": f"{path}: the file is gone or torn"}
        for path in found.torn_shards
        if not found.damaged_units
    ]
    rows += [{**nothing, "table": table.table, "problem": table.problem} for table in found.damaged_tables]
    rows += [{**nothing, "table": file.table, "problem": file.problem} for file in files]
    absent = [f"not in the catalog: {record}" for record in found.missing] or ([found.refusal] if found.refusal else [])
    rows += [{**nothing, "table": "catalog", "problem": problem} for problem in absent]
    return rows


def _say_what_has_no_hash(found: Inspection) -> None:
    if without_hash := sum(table.n_without_hash for table in found.tables):
        say(f"{without_hash:,} rows of small tables carry no hash: `logitlake maintain` adds it")
    if old_rows := sum(unit.n_without_hash for unit in found.units):
        say(
            f"{old_rows:,} sequences are of format 1, whose checksum does not cover every column: `logitlake maintain` "
            "brings them to format 2"
        )
    if found.unchecked:
        say(found.unchecked)


def _raise_for_damage(found: Inspection, files: Sequence[FileCheck]) -> None:
    if damaged := [table.problem for table in found.damaged_tables]:
        raise IntegrityError(f"{'; '.join(damaged)}: {ADVICE}")
    if found.refusal:
        raise IntegrityError(found.refusal)
    if bad := found.damaged_units:
        raise IntegrityError(f"{len(bad)} of {len(found.units)} work units differ from what was committed: {ADVICE}")
    if found.torn_shards:
        raise IntegrityError(f"{found.torn_shards[0]}: the shard is gone or torn: {ADVICE}")
    if files:
        raise IntegrityError(files[0].problem)
