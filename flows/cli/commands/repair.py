"""`logitlake repair`: mend what `logitlake verify` finds."""

from dataclasses import dataclass
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions, writable_lake
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_record, print_rows, say
from logitlake.flows.terminal.progress import watched
from logitlake.storage.errors import IntegrityError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.repair.repair import RepairReport, as_record
from logitlake.storage.repair.repair import repair as mend

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class RepairOptions(ResultOptions):
    """What is checked, and whether anything is changed."""

    unit_ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of work units to check; default: all. Small tables: always.", show_default=False),
    ] = None
    sample: Annotated[
        float,
        typer.Option(
            "--sample", min=0.0, max=1.0, help="Share of the work units to check, as `logitlake verify` does."
        ),
    ] = 1.0
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")] = False


def repair(options: RepairOptions) -> None:
    """Replace damaged files by new ones with their intact rows, and let damaged documents be captured again.

    Nothing is asked: try `--dry-run` first. A copy of each damaged file stays in `damaged/` under the data path. Rows
    that another place holds are made again, and all others are listed. Exit code 7 if something could not be repaired,
    or if rows were removed that only a backup brings back.
    """
    config = options.config()
    with Lake.open(location_of(config)) if options.dry_run else writable_lake(config) as lake:
        report = mend(
            lake,
            sample=options.sample,
            unit_ids=options.unit_ids or None,
            dry_run=options.dry_run,
            watch=lambda checks, total: watched(checks, "verify", total=total, unit="units"),
        )
    _print(report, options.form)
    _advise(report)
    _raise_for_what_is_left(report)


def _print(report: RepairReport, form: Format) -> None:
    """As a table: counts, files, and the first documents and rows. In other formats everything."""
    record = as_record(report)
    if form is not Format.TABLE:
        print_record(record, form)
        return
    counted = {
        "units checked": report.n_units,
        "files replaced": len(report.files),
        "documents to capture again": len(report.documents),
        "documents from other files": report.n_copies,
        "rows made again": sum(report.restored.values()),
        "rows removed": sum(len(removed.rows) for removed in report.removed),
    }
    print_record(counted, form, title="Repair (dry run)" if report.dry_run else "Repair")
    if report.files:
        print_rows([{"file": f.file, "problem": f.problem} for f in report.files], form, title="Damaged files")
    if report.documents:
        documents = [{"doc_id": d.doc_id, "recipe_id": d.recipe_id} for d in report.documents]
        title = f"The first {_SHOWN} documents" if len(documents) > _SHOWN else "Documents"
        print_rows(documents[:_SHOWN], form, title=title)
        if len(documents) > _SHOWN:
            say(f"{len(documents) - _SHOWN:,} more documents: all of them with --format json")


def _advise(report: RepairReport) -> None:
    would = "would be" if report.dry_run else "were"
    for table, n_rows in sorted(report.restored.items()):
        say(f"table {table}: {n_rows:,} rows {would} made again from other files, notes or shards")
    for removed in report.removed:
        for row in removed.rows[:_SHOWN]:
            say(f"table {removed.table}: {would} removed: {row}")
        if len(removed.rows) > _SHOWN:
            say(f"table {removed.table}: {len(removed.rows) - _SHOWN:,} more rows: all of them with --format json")
        say(f"table {removed.table}: {removed.advice}")
    if report.documents:
        say(f"{len(report.documents):,} documents {would} removed: the next `logitlake capture` computes them again")
    if report.is_clean:
        say("nothing to repair: every row matches its hash or checksum")
    elif report.dry_run:
        say("nothing was changed; `logitlake repair` does it. To restore a file from a backup instead, do that first")
    else:
        say("copies of the damaged files are in damaged/ under the data path: delete them when you need them no longer")


def _raise_for_what_is_left(report: RepairReport) -> None:
    if report.problems:
        raise IntegrityError(f"not repaired: {'; '.join(report.problems)}. {_CATALOG_ADVICE}")
    final = [removed for removed in report.removed if removed.is_final]
    if final and not report.dry_run:
        tables = ", ".join(removed.table for removed in final)
        raise IntegrityError(
            f"rows of {tables} were removed that nothing else holds (listed above): if they matter, restore the lake "
            "from a backup"
        )


_CATALOG_ADVICE = (
    "Where a file is intact and the catalog is wrong, restore the catalog from a backup, or move it away and run "
    "`logitlake rebuild`"
)
