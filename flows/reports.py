"""What a run of the teacher flow did, what was expected of it, and what it cost."""

from dataclasses import asdict, dataclass, field
from typing import Any

from logitlake.flows.terminal.comparison import compared


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport:
    """What a run of the teacher flow did. `stopped` says what ended it before the end of the corpora, if it was.

    `seconds` are those of the whole run, `expected` what was expected of it (see logitlake.flows.terminal.comparison).
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
    documents_rejected: int = 0
    stopped: str = ""
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float | None:
        """What the machine cost for the whole run; None if nobody said what an hour costs."""
        price = self.expected.get("price_per_hour")
        return None if price is None else self.seconds / 3600 * price

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the teacher was; None if it was not run."""
        return self.n_tokens / self.teacher_seconds if self.teacher_seconds else None

    @property
    def bytes_per_token(self) -> float | None:
        """What a token took on disk; None if none was stored."""
        return self.n_bytes / self.n_tokens if self.n_tokens else None

    def comparison(self) -> list[dict[str, Any]]:
        """What was expected beside what it took."""
        return compared(self.expected, asdict(self))

    def as_record(self) -> dict[str, Any]:
        """The fields, the two rates and the cost by name."""
        record = {**asdict(self), "tokens_per_second": self.tokens_per_second, "bytes_per_token": self.bytes_per_token}
        del record["expected"]
        return record if self.cost is None else {**record, "cost": self.cost}
