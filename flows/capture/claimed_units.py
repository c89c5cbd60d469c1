"""Work units of a plan whose documents no other run computes.

Runs on several machines plan the same corpora. Each claims the documents of a unit before the teacher reads them, and
leaves out what others have claimed. At the end it waits for those claims: what a run that died has left is planned
again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from logitlake.pipeline.capture.planning import ClaimedDocuments, Plan, PlanSummary, WorkUnit
from logitlake.storage.writing.claims import Claims

log = logging.getLogger(__name__)

# Enough to see whether other runs are still at work.
_WATCHED_DOCUMENTS = 10_000
_REPORT_SECONDS = 60.0


class ClaimedUnits(Iterator[WorkUnit]):
    """`make_plan` makes a plan of what the lake lacks at that moment; `held` returns those of some documents that it
    holds by now. Both are called in the thread that iterates."""

    def __init__(
        self,
        make_plan: Callable[[ClaimedDocuments], Plan],
        *,
        claims: Claims,
        held: Callable[[list[str]], set[str]],
        poll_seconds: float,
    ) -> None:
        self._make_plan = make_plan
        self._claims = claims
        self._held = held
        self._poll_seconds = poll_seconds
        self._first_plan = self._plan = make_plan(self._watch)
        self._watched: set[str] = set()
        self._lost = 0
        self._gained = 0
        self._units = self._make_units()

    def __next__(self) -> WorkUnit:
        return next(self._units)

    @property
    def summary(self) -> PlanSummary:
        """Counts of the first plan, which reads every document."""
        return self._first_plan.summary

    @property
    def documents_elsewhere(self) -> int:
        """Documents that were left to other runs."""
        return max(0, self._first_plan.summary.claimed + self._lost - self._gained)

    def _make_units(self) -> Iterator[WorkUnit]:
        while True:
            lost = 0
            for unit in self._plan:
                own = self._own_part(unit)
                lost += len(unit.documents) - len(own.documents)
                if self._plan is not self._first_plan:
                    self._gained += len(own.documents)
                if own.documents or own.rejects or own.duplicates:
                    yield own
            if self._plan is self._first_plan:
                self._lost = lost
            if self._plan.summary.capped or not (lost + self._plan.summary.claimed):
                return
            self._wait_for_others()
            self._plan = self._make_plan(self._watch)

    def _watch(self, doc_ids: list[str]) -> set[str]:
        claimed = self._claims.of_others(doc_ids)
        self._note(claimed)
        return claimed

    def _note(self, claimed: set[str]) -> None:
        self._watched.update(sorted(claimed)[: max(0, _WATCHED_DOCUMENTS - len(self._watched))])

    def _own_part(self, unit: WorkUnit) -> WorkUnit:
        """The unit without what others compute or have stored since the plan began."""
        if not (unit.documents and self._claims.shared):
            return unit
        doc_ids = [tokenized.document.doc_id for tokenized in unit.documents]
        taken = self._claims.take(doc_ids)
        # Asked for after the claim: whoever held one before has committed before giving it back.
        stored = self._held(sorted(taken))
        self._claims.release(sorted(stored))
        self._note(set(doc_ids) - taken)
        if len(taken) == len(doc_ids) and not stored:
            return unit
        own = tuple(d for d in unit.documents if d.document.doc_id in taken and d.document.doc_id not in stored)
        return replace(unit, documents=own, n_tokens=sum(document.n_tokens for document in own))

    def _wait_for_others(self) -> None:
        """Until none of the documents that others had claimed is claimed any longer."""
        began = reported = time.monotonic()
        while waiting := self._claims.of_others(sorted(self._watched)):
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                log.info(
                    "waiting for %s documents that other captures of this lake compute, for %.0f s",
                    *(f"{len(waiting):,}", reported - began),
                )
            time.sleep(self._poll_seconds)
        self._watched.clear()
