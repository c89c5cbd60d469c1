"""Reports of runs: counts, cost and outcome."""

from dataclasses import asdict, dataclass, field
from typing import Any

from logitlake.flows.terminal.comparison import compared


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport:
    """What a run of the teacher flow did. `stopped`: why it ended before the end of the corpora.

    `documents_elsewhere` were left to other runs, which computed them meanwhile. `seconds` are those of the whole run,
    `expected` what was expected of it (see logitlake.flows.terminal.comparison).
    """

    run_id: str
    recipe_id: str
    teacher: str
    n_units: int = 0
    n_documents: int = 0
    n_tokens: int = 0
    n_targets: int = 0
    n_bytes: int = 0
    teacher_seconds: float = 0.0
    seconds: float = 0.0
    commit_number: int | None = None
    documents_seen: int = 0
    documents_known: int = 0
    documents_repeated: int = 0
    documents_elsewhere: int = 0
    documents_rejected: int = 0
    stopped: str = ""
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float | None:
        """Cost of the machine for the whole run; None without a price per hour."""
        price = self.expected.get("price_per_hour")
        return None if price is None else self.seconds / 3600 * price

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the teacher; None if it was not run."""
        return self.n_tokens / self.teacher_seconds if self.teacher_seconds else None

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes on disk per token; None if none was stored."""
        return self.n_bytes / self.n_tokens if self.n_tokens else None

    def comparison(self) -> list[dict[str, Any]]:
        """Expected and measured values."""
        return compared(self.expected, asdict(self))

    def as_record(self) -> dict[str, Any]:
        """The fields, the two rates and the cost by name."""
        record = {**asdict(self), "tokens_per_second": self.tokens_per_second, "bytes_per_token": self.bytes_per_token}
        del record["expected"]
        return record if self.cost is None else {**record, "cost": self.cost}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateReport:
    """What a run of the flow `generate` did. `n_tokens` are those that the writer wrote.

    `samples_stored`: those that were in the lake before; `n_verdicts` may be on them too. `n_waiting`: traces that the
    verifier could not judge yet.
    """

    run_id: str
    sampling_id: str
    verifier_id: str
    writer: str
    n_units: int = 0
    n_traces: int = 0
    n_tokens: int = 0
    n_verdicts: int = 0
    n_kept: int = 0
    writer_seconds: float = 0.0
    seconds: float = 0.0
    commit_number: int | None = None
    prompts: int = 0
    prompts_repeated: int = 0
    prompts_forgotten: int = 0
    prompts_rejected: int = 0
    samples_stored: int = 0
    n_waiting: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the writer; None if it was not run."""
        return self.n_tokens / self.writer_seconds if self.writer_seconds and self.n_tokens else None

    def line(self) -> str:
        """One log line of `name=value`: what is committed."""
        names = ("n_units", "n_traces", "n_tokens", "n_verdicts", "n_kept")
        return "committed " + " ".join(f"{name.removeprefix('n_')}={getattr(self, name)}" for name in names)

    def as_record(self) -> dict[str, Any]:
        """The fields and the speed by name."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillReport:
    """What a run of the student flow did. `trained` is False if the student existed.

    `metrics` has `train` and `curve` (loss over steps), and where there are held-out documents `before`, `after` and
    `teacher`.
    """

    run_id: str
    student_id: str
    directory: str
    trained: bool
    parent_id: str
    recipe_id: str
    row_set_id: str
    up_to_commit: int
    n_sequences: int
    n_tokens: int
    n_targets: int
    metrics: dict[str, Any]

    def as_record(self) -> dict[str, Any]:
        """The fields by name, metrics flattened, as in `after_kl`."""
        names = [name for name in self.__dataclass_fields__ if name != "metrics"]
        flat = {
            f"{part}_{name}": value
            for part, values in self.metrics.items()
            if isinstance(values, dict)
            for name, value in values.items()
        }
        return {**{name: getattr(self, name) for name in names}, **flat}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintainReport:
    """What upkeep did; with `dry_run`, what it would do."""

    run_id: str
    dry_run: bool
    units_verified: int = 0
    forgotten_again: int = 0
    merges: int = 0
    files_merged: int = 0
    merges_put_off: int = 0
    small_tables_put_off: int = 0
    forgotten_rows_removed: bool = False
    snapshots_expired: int = 0
    expired_files: int = 0
    orphaned_files: int = 0
    staged_files: int = 0
    foreign_files: int = 0
    damaged_files: int = 0
    shards_before: int = 0
    shards_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    small_files_before: int = 0
    small_files_after: int = 0
    snapshots_before: int = 0
    snapshots_after: int = 0

    def as_record(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedistillReport:
    """What a night did. `outcome`: nothing new, waiting for more, decided before, promoted, or rejected.

    `candidate` is the student of the last decision, with its `figures`. `before` and `current`: the alias's student
    before the night and now.
    """

    run_id: str
    alias: str
    outcome: str = "nothing new"
    reason: str = ""
    recipe_id: str = ""
    captured_documents: int = 0
    captured_tokens: int = 0
    new_documents: int = 0
    new_tokens: int = 0
    candidate: str | None = None
    before: str | None = None
    current: str | None = None
    promoted: int = 0
    rejected: int = 0
    figures: dict[str, Any] | None = None

    def as_record(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)
