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
# A run that others hold up for so long ends; the next run computes what is left.
_LONGEST_WAIT_SECONDS = 24 * 3600.0


class ClaimedUnits(Iterator[WorkUnit]):
    """`make_plan` makes a plan of what the lake lacks at that moment; `held` returns those of some documents that it
    holds by now. Where claims are shared, `max_tokens` bounds the documents of this run; the plan has no bound then.

    `before_waiting` is called before a wait for other runs: it must commit what this run has computed and raise the
    error of a commit that failed, and give up whatever the other runs may need. Once `is_over` is true, a wait ends and
    there are no more units. All are called in the thread that iterates.
    """

    def __init__(
        self,
        make_plan: Callable[[ClaimedDocuments], Plan],
        *,
        claims: Claims,
        held: Callable[[list[str]], set[str]],
        poll_seconds: float,
        max_tokens: int | None = None,
        before_waiting: Callable[[], None] = lambda: None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._make_plan = make_plan
        self._claims = claims
        self._held = held
        self._poll_seconds = poll_seconds
        self._tokens_left = max_tokens if claims.shared else None
        self._capped = False
        self._before_waiting = before_waiting
        self._is_over = is_over
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
    def is_capped(self) -> bool:
        """Whether the units end at `max_tokens`, before the end of the corpora."""
        return self._capped or self._plan.summary.capped

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
                own = self._within_cap(own)
                if self._plan is not self._first_plan:
                    self._gained += len(own.documents)
                if own.documents or own.rejects or own.duplicates:
                    yield own
                if self._capped:
                    break
            if self._plan is self._first_plan:
                self._lost = lost
            if self.is_capped or not (lost + self._plan.summary.claimed):
                return
            self._before_waiting()
            if not self._waited_for_others():
                return
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

    def _within_cap(self, unit: WorkUnit) -> WorkUnit:
        """The unit up to the first document that would exceed `max_tokens`; claims of the others are given back."""
        if self._tokens_left is None:
            return unit
        fits = 0
        for tokenized in unit.documents:
            if tokenized.n_tokens > self._tokens_left:
                self._capped = True
                break
            self._tokens_left -= tokenized.n_tokens
            fits += 1
        if not self._capped:
            return unit
        self._claims.release([tokenized.document.doc_id for tokenized in unit.documents[fits:]])
        own = unit.documents[:fits]
        return replace(unit, documents=own, n_tokens=sum(document.n_tokens for document in own))

    def _waited_for_others(self) -> bool:
        """Wait until none of the documents that others had claimed is claimed any longer; False if the run is over."""
        began = reported = time.monotonic()
        while waiting := self._claims.of_others(sorted(self._watched)):
            if self._is_over() or time.monotonic() - began > _LONGEST_WAIT_SECONDS:
                log.warning(
                    "%s documents are left to other captures of this lake, which hold them", f"{len(waiting):,}"
                )
                return False
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                log.info(
                    "waiting for %s documents that other captures of this lake compute, for %.0f s",
                    *(f"{len(waiting):,}", reported - began),
                )
            time.sleep(self._poll_seconds)
        self._watched.clear()
        return True
