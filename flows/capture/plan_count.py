"""Count the whole plan of a capture in a thread, to show the remaining time.

The thread reads the corpora a second time, compared with the lake at the start of the run, while the teacher works: the
run does not wait for it.
"""

import threading
from types import TracebackType

from logitlake.flows.capture.preparation import Prepared
from logitlake.pipeline.capture.planning import PlanSummary, StoredDocuments
from logitlake.storage.errors import LogitlakeError


class PlanCount:
    """A context manager; `summary` is None until the whole plan is counted, or if counting fails."""

    def __init__(self, prepared: Prepared, stored: StoredDocuments) -> None:
        self.summary: PlanSummary | None = None
        self._prepared = prepared
        self._stored = stored
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count, name="plan-count", daemon=True)

    def start(self) -> None:
        """Start counting, unless it is running."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self) -> None:
        """Wait until the count ends, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()

    def stop(self) -> None:
        """Stop after the current unit."""
        self._stopped.set()

    def __enter__(self) -> "PlanCount":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.wait()

    def _count(self) -> None:
        try:
            plan = self._prepared.plan(self._stored)
            for _ in plan:
                if self._stopped.is_set():
                    return
        except (LogitlakeError, OSError):
            return  # the capture itself reports the same error
        self.summary = plan.summary
