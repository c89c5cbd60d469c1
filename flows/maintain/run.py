"""One execution of upkeep, without Prefect: verify, merge, sweep. Captures and readers may run at the same time."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from logitlake.flows.reports import MaintainReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.progress import watched
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import list_paths
from logitlake.storage.errors import IntegrityError, LakeBusyError, LakeMissingError, LogitlakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.upkeep.compaction import compact, merge_small_tables, plan_compaction
from logitlake.storage.upkeep.forgetting import forget_again, n_forgotten, n_removed, note_removed
from logitlake.storage.upkeep.hashing import add_row_hashes
from logitlake.storage.upkeep.sweeping import Holdings, Swept, holdings, sweep
from logitlake.storage.verification.inspection import ADVICE, Inspection, inspect, inspect_known, record
from logitlake.storage.verification.verify import UnitCheck
from logitlake.storage.writing.runs import note_run

log = logging.getLogger(__name__)

KIND = "maintain"


def has_no_lake_yet(location: LakeLocation) -> bool:
    """Whether there is nothing to maintain: no lake, and no shards of a lake whose catalog is gone."""
    try:
        Lake.open(location).close()
    except LakeMissingError:
        return not list_paths(location, "store/sequences/**/*.parquet")
    return False


class MaintainRun:
    """A context manager around one run; call `verify`, `merge` and `sweep` in this order."""

    def __init__(self, config: Config, *, dry_run: bool = False, verify_all: bool = False) -> None:
        self.settings = config.maintenance
        self.location = location_of(config)
        self._local_copy = config.training.local_copy
        self._lock_timeout = config.lake.lock_timeout_seconds
        self._sample = 1.0 if verify_all else self.settings.verify_sample
        self._began = datetime.now(UTC)
        self.report = MaintainReport(run_id=new_run_id(self._began), dry_run=dry_run)
        self._open = ExitStack()

    def __enter__(self) -> "MaintainRun":
        try:
            self._open.enter_context(single_writer(self.location, KIND))
            self._lake = self._open.enter_context(
                Lake.open(self.location, read_only=False, lock_timeout=self._lock_timeout)
            )
            self._count(holdings(self._lake), "before")
            if not self.report.dry_run:
                self._note("started")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if self.report.dry_run:
                return
            try:
                event = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
                self._note(event, **({} if error is None else {"error": str(error)}))
            except LogitlakeError:
                if error is None:
                    raise

    def verify(self) -> None:
        """Check a sample of the work units, another sample every day.

        Raises IntegrityError for damage, or if the catalog knows less than its data path holds: then nothing is merged
        or removed, because an old file may be needed.
        """

        def watch(checks: Iterable[UnitCheck], total: int) -> Iterable[UnitCheck]:
            return watched(checks, "verify", total=total, unit="units")

        found = inspect(self._lake, sample=self._sample, salt=f"{self._began:%Y-%m-%d}", watch=watch)
        self.report = replace(self.report, units_verified=len(found.units))
        # Known damage may not be in the sample, and the files that could restore it must stay.
        self._refuse_damage(found)
        if (known := inspect_known(self._lake, found)) is not None:
            self._refuse_damage(known)
        reach("units-verified")

    def _refuse_damage(self, found: Inspection) -> None:
        if not self.report.dry_run:
            record(self._lake, found)
        if found.refusal:
            raise IntegrityError(found.refusal)
        if damaged := found.damaged_units:
            raise IntegrityError(
                f"{len(damaged)} of {len(found.units)} work units are damaged; the first is {_described(damaged[0])}. "
                f"Nothing was merged or removed: {ADVICE}"
            )
        problems = [check.problem for check in found.damaged_tables]
        problems += [f"{path}: the shard is gone or torn" for path in found.torn_shards]
        if problems:
            raise IntegrityError(f"{'; '.join(problems)}. Nothing was merged or removed: {ADVICE}")

    def merge(self) -> None:
        """Rewrite small shards and shards with forgotten rows; finishes an interrupted forgetting first."""
        if self.report.dry_run:
            merges = plan_compaction(self._lake, target_bytes=self.settings.target_bytes)
            self._n_forgotten = n_forgotten(self._lake)
            self.report = replace(self.report, merges=len(merges), files_merged=sum(m.n_files for m in merges))
            return
        if again := forget_again(self._lake):
            self.report = replace(self.report, forgotten_again=len(again))
        self._n_forgotten = n_forgotten(self._lake)
        merges = plan_compaction(self._lake, target_bytes=self.settings.target_bytes)
        for merge in watched(merges, "merge", total=len(merges), unit="merges"):
            if compact(self._lake, merge) is None:
                self.report = replace(self.report, merges_put_off=self.report.merges_put_off + 1)
            else:
                merged = self.report.files_merged + merge.n_files
                self.report = replace(self.report, merges=self.report.merges + 1, files_merged=merged)
        reach("shards-merged")
        if n_old_rows := sum(merge.n_old_rows for merge in merges):
            log.info("brought %s sequences of format 1 to format 2", f"{n_old_rows:,}")
        self._add_row_hashes()
        if put_off := merge_small_tables(self._lake):
            self.report = replace(self.report, small_tables_put_off=len(put_off))
            log.warning(
                "other writers changed %s at the same moment: the next upkeep merges their files", ", ".join(put_off)
            )

    def _add_row_hashes(self) -> None:
        """Bring rows of an older format up. Other writers may delay this; merging and sweeping do not wait for it."""
        try:
            if n_hashed := add_row_hashes(self._lake):
                log.info("added row hashes to %s rows of an older format", f"{n_hashed:,}")
        except LakeBusyError as error:
            log.warning("%s; merging and sweeping continue", error)

    def sweep(self) -> None:
        """Expire snapshots and remove unreferenced files after the grace period; forgotten rows are removed at once."""
        put_off = self.report.merges_put_off or self.report.small_tables_put_off
        due = self._n_forgotten > n_removed(self._lake) and not put_off
        swept: Swept = sweep(
            self._lake,
            grace=timedelta(hours=self.settings.grace_hours),
            forget_at_once=due,
            dry_run=self.report.dry_run,
        )
        self.report = replace(
            self.report,
            forgotten_rows_removed=due,
            snapshots_expired=swept.snapshots,
            expired_files=len(swept.expired_files),
            orphaned_files=len(swept.orphaned_files),
            staged_files=len(swept.staged_files),
            foreign_files=len(swept.foreign_files),
            damaged_files=len(swept.damaged_files),
        )
        if swept.foreign_files:
            log.warning(
                "%d Parquet files under the data path do not belong to this lake, such as %s: no orphaned file is "
                "removed until they are moved elsewhere",
                *(len(swept.foreign_files), swept.foreign_files[0]),
            )
        if swept.damaged_files:
            log.warning(
                "%d unreferenced files are damaged, such as %s: copies stay in %sdamaged/ until you delete them",
                *(len(swept.damaged_files), swept.damaged_files[0], self.location.data),
            )
        if due and not self.report.dry_run:
            note_removed(self._lake, self.report.run_id, kind=KIND, forgotten=self._n_forgotten)
        self._count(holdings(self._lake), "after")
        if self._local_copy is not None and not self.report.dry_run:
            LocalCopy.clean(self._local_copy, self._lake)

    def _count(self, now: Holdings, when: str) -> None:
        counts: dict[str, Any] = {
            f"shards_{when}": now.n_shards,
            f"bytes_{when}": now.n_bytes,
            f"small_files_{when}": now.n_small_files,
            f"snapshots_{when}": now.n_snapshots,
        }
        self.report = replace(self.report, **counts)

    def _note(self, event: str, **more: Any) -> None:
        detail = {"report": self.report.as_record(), **more}
        note_run(self._lake, self.report.run_id, event, kind=KIND, recipe_id=None, **detail)


def _described(check: UnitCheck) -> str:
    return f"unit {check.unit_id}: {check.problem}"
