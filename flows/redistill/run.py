"""One execution of the incremental flow, without Prefect: what to train next, and the decision about it.

All state is in the lake. If a run is killed, the next run plans the same candidate again (a student's id is a hash) and
continues. A night with nothing new costs a few queries and loads no torch.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from logitlake.flows.distill.directories import students_directory
from logitlake.flows.distill.job import StudentJob, require_student
from logitlake.flows.redistill.candidate_job import candidate_job
from logitlake.flows.reports import CaptureReport, DistillReport, RedistillReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of, require_capture_settings
from logitlake.pipeline.evaluation.promotion import Verdict, judge
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LakeError, LogitlakeError, MismatchError, SettingsError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.row_sets.increments import has_held_out, increment_for, mixed_rows, tokenizer_of
from logitlake.storage.row_sets.registered import register_row_set
from logitlake.storage.students.candidates import KIND, Candidate, is_decided, note_planned, undecided
from logitlake.storage.students.promotions import promote, reject, student_of
from logitlake.storage.writing.recipes import find_recipe
from logitlake.storage.writing.runs import note_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A candidate, and the job with which the student flow trains, measures and registers it."""

    candidate: Candidate
    job: StudentJob


def require_redistill_settings(config: Config) -> None:
    """Check the settings that a night needs. Raises SettingsError that names the section."""
    require_capture_settings(config)
    require_student(config)
    students_directory(config)
    if config.training.query is not None:
        raise SettingsError(
            "training.query: not supported by redistill, which selects the new rows itself; use training.where"
        )


class RedistillRun:
    """A context manager around one run: `captured`, then `next` and `decide` in turn until there is no next.

    A run that is under way can be entered again, by the flow that continues it: the first exit ends it.
    """

    def __init__(self, config: Config, *, patience: float = 0.0) -> None:
        """`patience`: seconds to wait for another such run on this lake before it is refused."""
        self.config = config
        require_redistill_settings(config)
        self._patience = patience
        self.location = location_of(config)
        self.settings = config.redistill
        self.report = RedistillReport(run_id=new_run_id(), alias=self.settings.alias)
        self._open = ExitStack()
        self._under_way = self._is_closed = False

    def __enter__(self) -> "RedistillRun":
        if not self._under_way:
            self._open.enter_context(single_writer(self.location, KIND, patience=self._patience))
            self._under_way = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with self._open:
            if not self.report.recipe_id:
                return
            try:
                event = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
                self._note(event, **({} if error is None else {"error": str(error)}))
            except LogitlakeError:
                if error is None:
                    raise

    def captured(self, report: CaptureReport) -> None:
        """Take over the capture's report, which names the recipe, and open the lake."""
        self.report = replace(
            self.report,
            recipe_id=report.recipe_id,
            captured_documents=report.n_documents,
            captured_tokens=report.n_tokens,
        )
        # No transaction is open between the steps, so no other writer waits for this connection.
        self._lake = self._open.enter_context(
            Lake.open(self.location, read_only=False, lock_timeout=self.config.lake.lock_timeout_seconds)
        )
        before = student_of(self._lake, self.settings.alias)
        self.report = replace(self.report, before=before, current=before)
        self._note("started")

    def next(self) -> Attempt | None:
        """The next candidate to train: an undecided one, else one for the new rows; None at the end."""
        current = student_of(self._lake, self.settings.alias)
        for planned in undecided(self._lake, self.settings.alias, current):
            if (attempt := self._again(planned)) is not None:
                return attempt
        return self._plan(current)

    def decide(self, attempt: Attempt, trained: DistillReport) -> Verdict:
        """Promote or reject, in one transaction; the candidate must be registered."""
        candidate = attempt.candidate
        measured = trained.metrics
        verdict = judge(measured.get("after", {}), measured.get("before") if candidate.current else None, self.settings)
        figures = {**verdict.figures, "reason": verdict.reason, "held_out": measured.get("held_out")}
        how: dict[str, Any] = {"figures": figures, "run_id": self.report.run_id, "alias": candidate.alias}
        if verdict.promote:
            promote(self._lake, candidate.student_id, expected=candidate.current, **how)
        else:
            reject(self._lake, candidate.student_id, **how)
        reach("candidate-decided")
        self.report = replace(
            self.report,
            outcome="promoted" if verdict.promote else "rejected",
            reason=verdict.reason,
            candidate=candidate.student_id,
            current=candidate.student_id if verdict.promote else candidate.current,
            promoted=self.report.promoted + verdict.promote,
            rejected=self.report.rejected + (not verdict.promote),
            figures=figures,
        )
        return verdict

    def _plan(self, current: str | None) -> Attempt | None:
        """A candidate for all rows that are new to the current student, if there are enough."""
        recipe_id, settings = self.report.recipe_id, self.settings
        where = self.config.training.where
        increment = increment_for(self._lake, current, recipe_id, where=where)
        if not self.report.candidate:
            self.report = replace(self.report, new_documents=increment.new_documents, new_tokens=increment.new_tokens)
        if not increment.new_documents:
            self._ended("nothing new", "the current student was trained on every row")
            return None
        if increment.new_documents < settings.min_new_documents or increment.new_tokens < settings.min_new_tokens:
            counts = f"{increment.new_documents:,} new documents and {increment.new_tokens:,} new tokens"
            minimum = f"{settings.min_new_documents:,} and {settings.min_new_tokens:,}"
            self._ended("waiting for more", f"{counts}; the minimum is {minimum}")
            return None
        self._check_comparable(current, recipe_id)
        rule = mixed_rows(increment, settings.replay_share, where=where)
        attempt = self._attempt(current, rule, increment.up_to)
        if is_decided(self._lake, attempt.candidate.student_id, settings.alias):
            self._ended("decided before", f"student {attempt.candidate.student_id} was compared before")
            return None
        note_planned(self._lake, self.report.run_id, attempt.candidate)
        reach("candidate-planned")
        return attempt

    def _again(self, planned: Candidate) -> Attempt | None:
        """A planned candidate, if the current settings and rows still give the same one."""
        if planned.recipe_id != self.report.recipe_id:
            return None
        try:
            attempt = self._attempt(planned.current, planned.where, planned.up_to_commit)
        except LakeError:
            return None  # every row of it was forgotten
        return attempt if attempt.candidate == planned else None

    def _attempt(self, current: str | None, where: str | None, up_to_commit: int) -> Attempt:
        """The candidate trained on these rows, starting from the current student."""
        recipe_id = self.report.recipe_id
        job = candidate_job(self.config, self._lake, recipe_id, current=current, where=where, up_to_commit=up_to_commit)
        register_row_set(self._lake, job.rows)
        candidate = Candidate(
            student_id=job.student_id,
            alias=self.settings.alias,
            current=current,
            recipe_id=job.recipe_id,
            row_set_id=job.rows.row_set_id,
            where=where,
            up_to_commit=up_to_commit,
        )
        return Attempt(candidate=candidate, job=job)

    def _check_comparable(self, current: str | None, recipe_id: str) -> None:
        """Check, before training, that candidate and current student can be compared."""
        if current is None:
            return
        if not has_held_out(self._lake, recipe_id):
            raise SettingsError(
                f"recipe {recipe_id[:12]} has no held-out documents, so no candidate can be compared with the current "
                "student; capture more documents, or make a new lake with a larger lake.held_out.share"
            )
        recipe_tokenizer = find_recipe(self._lake, recipe_id)[1]["tokenizer"]
        student_tokenizer = tokenizer_of(self._lake, current)
        if student_tokenizer not in (None, recipe_tokenizer):
            raise MismatchError(
                f"the current student has tokenizer {student_tokenizer}, the recipe has {recipe_tokenizer}: "
                "their losses can't be compared; use another alias for the new line of students (redistill.alias)"
            )

    def _ended(self, outcome: str, reason: str) -> None:
        if not self.report.candidate:
            self.report = replace(self.report, outcome=outcome, reason=reason)

    def _note(self, event: str, **more: Any) -> None:
        detail = {"report": self.report.as_record(), **more}
        note_run(self._lake, self.report.run_id, event, kind=KIND, recipe_id=self.report.recipe_id, **detail)
