"""Progress and remaining time of a capture or a training, as a log line and as text."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from logitlake.flows.reports import CaptureReport
from logitlake.flows.terminal.quantities import bytes_text, duration_text


@dataclass(frozen=True, slots=True)
class Pace:
    """The report of a running capture, and the tokens of its whole plan (None while they are not counted)."""

    report: CaptureReport
    planned_tokens: int | None

    @property
    def share(self) -> float:
        """Done share of the plan, in [0, 1]; 0 while the plan is not counted."""
        return min(self.report.n_tokens / self.planned_tokens, 1.0) if self.planned_tokens else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Remaining teacher seconds at the speed so far; None while unknown."""
        speed = self.report.tokens_per_second
        if not speed or self.planned_tokens is None:
            return None
        return max(self.planned_tokens - self.report.n_tokens, 0) / speed

    def line(self) -> str:
        """One log line of `name=value`: what is committed and what remains."""
        report = self.report
        values: dict[str, float | int | None] = {
            "units": report.n_units,
            "documents": report.n_documents,
            "tokens": report.n_tokens,
            "planned_tokens": self.planned_tokens,
            "bytes": report.n_bytes,
            "tokens_per_second": report.tokens_per_second,
            "remaining_seconds": self.remaining_seconds,
        }
        present = {name: value for name, value in values.items() if value is not None}
        return "committed " + " ".join(f"{name}={value:.0f}" for name, value in present.items())

    def words(self) -> str:
        """The same as text for people."""
        report, left = self.report, self.remaining_seconds
        of = f" of {self.planned_tokens:,}" if self.planned_tokens is not None else ""
        speed = f", {report.tokens_per_second:,.0f} tokens/s" if report.tokens_per_second else ""
        rest = f", about {duration_text(left)} left" if left else ""
        return f"{report.n_tokens:,}{of} tokens, {bytes_text(report.n_bytes)} committed{speed}{rest}"


class TrainingPace:
    """Speed of a training, measured from the first reported step, since a resumed training begins half way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._step = self._max_steps = 0

    def reach(self, step: int, max_steps: int) -> None:
        """`step` of `max_steps` are done."""
        self._step, self._max_steps = step, max_steps
        if self._first is None:
            self._first = (step, self._clock())

    @property
    def remaining_seconds(self) -> float | None:
        """Remaining seconds at the speed so far; None before the second report."""
        if self._first is None or self._step <= self._first[0]:
            return None
        per_step = (self._clock() - self._first[1]) / (self._step - self._first[0])
        return per_step * (self._max_steps - self._step)

    def line(self, loss: float) -> str:
        """One line of `name=value` for a log."""
        left = self.remaining_seconds
        rest = "" if left is None else f" remaining_seconds={left:.0f}"
        return f"trained steps={self._step} total={self._max_steps} loss={loss:.4f}{rest}"

    def words(self, loss: float) -> str:
        """The same as text for people."""
        left = self.remaining_seconds
        rest = f", about {duration_text(left)} left" if left else ""
        return f"step {self._step} of {self._max_steps}, loss {loss:.4f}{rest}"
