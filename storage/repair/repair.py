"""Repair of what `verify` finds: whatever is intact is kept or made again, and the rest leaves the lake by name.

Documents of damaged shards leave the table `documents`, so that the next capture computes them again. A copy of each
damaged file stays in `damaged/`. Killed at any moment, the next repair goes on.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.repair.shard_repair import replace_shards
from logitlake.storage.repair.table_repair import replace_rows
from logitlake.storage.verification.history import examine, refusal, unknown_files
from logitlake.storage.verification.inspection import Inspection, Watch, inspect, record
from logitlake.storage.verification.known_damage import known_damage, record_damage
from logitlake.storage.verification.restored_rows import ADVICE, NOTHING_ELSE
from logitlake.storage.verification.shard_damage import TABLE, LostDocument, ShardDamage, find_shard_damage
from logitlake.storage.verification.table_damage import TableDamage, find_table_damage
from logitlake.storage.verification.verify import verify_tables
from logitlake.storage.writing.runs import note_run

KIND = "repair"
# These come first: what is known of documents and forgotten documents decides what is kept of all other tables.
_FIRST = ("damage", "lake_settings", "documents", "tombstones")
_UNDONE = "what is damaged is not repaired"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairedFile:
    """A damaged file that was replaced, or would be. `copy` is its copy in `damaged/`: empty in a dry run, and for a
    file that is gone. `n_lost` counts the rows that are damaged or can't be read, None if the file does not tell."""

    table: str
    file: str
    problem: str
    n_lost: int | None
    copy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedRows:
    """Rows of a small table that were removed and not made again, by key; `advice` says what a person can do."""

    table: str
    rows: tuple[str, ...]
    advice: str

    @property
    def is_final(self) -> bool:
        """Whether nothing but a backup brings them back."""
        return self.advice == NOTHING_ELSE


@dataclass(slots=True)
class RepairReport:
    """What a repair did, or would do.

    `documents` left the lake: capture computes them again. `n_copies` documents were taken from files that the catalog
    no longer names. `restored` counts, by table, rows that were made again. `problems` could not be repaired.
    """

    run_id: str
    dry_run: bool
    n_units: int = 0
    files: list[RepairedFile] = field(default_factory=list)
    documents: list[LostDocument] = field(default_factory=list)
    n_copies: int = 0
    restored: dict[str, int] = field(default_factory=dict)
    removed: list[RemovedRows] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether there was nothing to repair."""
        return not (self.files or self.documents or self.n_copies or self.removed or self.problems)


def repair(
    lake: Lake,
    *,
    sample: float = 1.0,
    unit_ids: Collection[str] | None = None,
    dry_run: bool = False,
    watch: Watch = lambda checks, total: checks,
) -> RepairReport:
    """Repair what an inspection of the lake finds, or say what would be done (`dry_run`).

    The lake must be open for writing, unless `dry_run`. Raises IntegrityError, and changes no shard, if the catalog
    does not know every commit of its data path; LakeBusyError while upkeep runs in an embedded lake, or if other
    writers always commit first.
    """
    now = datetime.now(UTC)
    report = RepairReport(run_id=f"repair-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", dry_run=dry_run)
    if dry_run:
        _foresee(lake, report, inspect(lake, sample=sample, unit_ids=unit_ids, watch=watch))
        return report
    with single_writer(lake.location, "maintain"):
        before = known_damage(lake) if "damage" not in _damaged_tables(lake) else []
        for name in _damaged_tables(lake):
            lake.in_turn(partial(_repair_table, lake, name, report), _UNDONE)
        if not _history_is_known(lake, report):
            return report
        found = inspect(lake, sample=sample, unit_ids=unit_ids, watch=watch)
        report.n_units = len(found.units)
        damaged = {unit.unit_id for unit in found.damaged_units}
        if damaged or found.torn_shards:
            # Known before anything changes: while it is, upkeep removes no file, whatever happens to this process.
            record(lake, found)
            lake.in_turn(lambda: _repair_shards(lake, damaged, found.torn_shards, report), _UNDONE)
        _close(lake, report, found, damaged | {damage.unit_id for damage in before if damage.unit_id})
    return report


def _history_is_known(lake: Lake, report: RepairReport) -> bool:
    """Whether the small tables can be asked what was committed; false only if the catalog describes one wrongly.

    Raises IntegrityError if the catalog does not know every commit of its data path.
    """
    try:
        missing = examine(lake, unknown_files(lake)).missing
    except LakeError:
        if not report.problems:
            raise
        return False
    if missing:
        raise IntegrityError(refusal(lake, missing))
    return True


def _foresee(lake: Lake, report: RepairReport, found: Inspection) -> None:
    report.n_units = len(found.units)
    for damage in found.table_damage.values():
        _add_table(report, damage, {})
    _add_shards(report, found.shards, {})
    report.problems += [found.unchecked] if found.unchecked else []
    report.problems += [refusal(lake, found.missing)] if found.missing else []


def _damaged_tables(lake: Lake) -> list[str]:
    """The small tables with a problem, in the order of their repair."""
    names = [check.table for check in verify_tables(lake) if check.problem]
    return sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))


def _repair_table(lake: Lake, name: str, report: RepairReport) -> None:
    number = lake.commit_number
    damage = find_table_damage(lake, name)
    copies = replace_rows(lake, damage, found_at=number) if damage.files else {}
    _add_table(report, damage, copies)


def _repair_shards(lake: Lake, unit_ids: Collection[str], torn: Collection[str], report: RepairReport) -> None:
    number = lake.commit_number
    damage = find_shard_damage(lake, unit_ids, torn)
    copies = replace_shards(lake, damage, found_at=number) if damage.shards or damage.lost or damage.copies else {}
    _add_shards(report, damage, copies)


def _add_table(report: RepairReport, damage: TableDamage, copies: dict[str, str]) -> None:
    for state in damage.files:
        path = state.file.path
        report.files.append(
            RepairedFile(
                table=damage.table, file=path, problem=state.problem, n_lost=state.n_lost, copy=copies.get(path, "")
            )
        )
    if damage.n_restored:
        report.restored[damage.table] = damage.n_restored
    if damage.removed:
        advice = ADVICE.get(damage.table, NOTHING_ELSE)
        report.removed.append(RemovedRows(table=damage.table, rows=tuple(damage.removed), advice=advice))
    report.problems += damage.catalog_problems


def _add_shards(report: RepairReport, damage: ShardDamage, copies: dict[str, str]) -> None:
    for shard in damage.shards:
        path = shard.file.path
        report.files.append(
            RepairedFile(table=TABLE, file=path, problem=shard.problem, n_lost=shard.n_lost, copy=copies.get(path, ""))
        )
    report.documents += damage.lost
    report.n_copies += sum(len(windows) for windows in damage.copies.values())
    report.problems += damage.catalog_problems


def _close(lake: Lake, report: RepairReport, before: Inspection, unit_ids: Collection[str]) -> None:
    """Check what was repaired, let the lake know what is still damaged, and note the run."""
    after = inspect(lake, unit_ids=sorted(unit_ids))
    report.problems += [unit.problem for unit in after.damaged_units]
    report.problems += [table.problem for table in after.damaged_tables]
    checked = {unit.unit_id for unit in before.units} | set(unit_ids)
    record_damage(lake, after.damage(lake), unit_ids=checked, tables=[table.table for table in after.tables])
    if not report.is_clean:
        note_run(lake, report.run_id, "finished", kind=KIND, recipe_id=None, report=as_record(report))


def as_record(report: RepairReport) -> dict[str, object]:
    """The report as plain values."""
    return {
        "run_id": report.run_id,
        "dry_run": report.dry_run,
        "units_checked": report.n_units,
        "files": [
            {"table": f.table, "file": f.file, "problem": f.problem, "rows_lost": f.n_lost, "copy": f.copy}
            for f in report.files
        ],
        "documents": [
            {"recipe_id": d.recipe_id, "unit_id": d.unit_id, "doc_id": d.doc_id, "file": d.file}
            for d in report.documents
        ],
        "documents_from_other_files": report.n_copies,
        "rows_restored": report.restored,
        "rows_removed": [{"table": r.table, "rows": list(r.rows), "advice": r.advice} for r in report.removed],
        "problems": report.problems,
    }
