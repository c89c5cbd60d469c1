"""How much a capture is going to compute, counted beside it: without that nobody knows how long it will still take.

A second pass over the corpora by a thread of its own, against what the lake held when the run began, while the teacher
is at work: it costs the run no waiting.
"""

import threading
from types import TracebackType

from logitlake.flows.capture.preparation import Prepared
from logitlake.pipeline.capture.planning import Known, PlanSummary
from logitlake.storage.errors import LogitlakeError


class PlanCount:
    """A context manager; `summary` is None until the whole plan is counted, and stays so if that can't be done."""

    def __init__(self, prepared: Prepared, known: Known) -> None:
        self.summary: PlanSummary | None = None
        self._prepared = prepared
        self._known = known
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._count, name="plan-count", daemon=True)

    def start(self) -> None:
        """Begin to count, if that is not under way."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self) -> None:
        """Until the count is there, if it was begun."""
        if self._thread.ident is not None:
            self._thread.join()

    def give_up(self) -> None:
        """Count no further than the unit of this moment."""
        self._given_up.set()

    def __enter__(self) -> "PlanCount":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()
        self.wait()

    def _count(self) -> None:
        try:
            plan = self._prepared.plan(self._known)
            for _ in plan:
                if self._given_up.is_set():
                    return
        except (LogitlakeError, OSError):
            return  # the capture meets the same, and says so
        self.summary = plan.summary
