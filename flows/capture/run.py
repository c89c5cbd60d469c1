"""One execution of the teacher flow, without Prefect: plan, compute, commit, count.

The flow calls `units`, `compute` and `commit` in turn. Committed units stay, however the run ends.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import chain, repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from logitlake.flows.capture.claimed_units import ClaimedUnits
from logitlake.flows.capture.estimate import expected_rates
from logitlake.flows.capture.other_tokenizer import other_tokenizer
from logitlake.flows.capture.plan_count import PlanCount
from logitlake.flows.capture.preparation import Prepared, prepare
from logitlake.flows.capture.unit_notes import rejects_of, sources_of
from logitlake.flows.reports import CaptureReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of, require_capture_settings
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.capture.planning import ClaimedDocuments, Plan, StoredDocuments, WorkUnit
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.schema.sequences import CAPTURED
from logitlake.storage.writing.claims import Claims, claims_of
from logitlake.storage.writing.commits import Receipt, RecipeRows, commit_units, last_data_commit
from logitlake.storage.writing.known_documents import KnownDocuments, held_by_all, known_to_all
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run
from logitlake.storage.writing.target_size_answers import keep_probe
from logitlake.storage.writing.teacher_configs import note_config

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from logitlake.pipeline.teachers.engine import Engine
    from logitlake.pipeline.teachers.top_k_engine import TopKEngine


@dataclass(frozen=True, slots=True, eq=False)
class _Computed:
    """A unit whose rows wait to be committed."""

    unit: WorkUnit
    rows: tuple[pa.Table, ...]
    seconds: float


class CaptureRun:
    """A context manager around one run. `commit` may run in another thread than `compute`.

    The lake's connection is used by one thread at a time. After an error, the exit waits for a running commit and
    commits the computed units that were not tried yet, so that no unit is computed twice.

    A run that is under way can be entered again, by the flow that continues it: the first exit ends it.
    """

    def __init__(
        self, config: Config, *, on_tokens: Callable[[int], None] = lambda n: None, patience: float = 0.0
    ) -> None:
        """`patience`: seconds to wait for another capture of this lake before this one is refused."""
        require_capture_settings(config)
        self._patience = patience
        self.config = config
        self.location = location_of(config)
        self.run_id = new_run_id()
        self.on_tokens = on_tokens
        # Before this run waits for other captures: commit what is computed, give back what they may need.
        self.before_waiting: Callable[[], None] = lambda: None
        self._under_way = self._is_closed = False
        self._planned_all = False
        self._began = time.monotonic()
        self._open = ExitStack()
        self._waiting: dict[int, _Computed] = {}
        self._units: dict[int, WorkUnit] = {}
        self._writing = threading.Lock()
        self._tried: set[int] = set()
        self._receipts: dict[int, Receipt] = {}
        self._engine: dict[str, str] = {}
        self._introduced = False
        self.last_data_commit = 0

    def __enter__(self) -> "CaptureRun":
        if self._under_way:
            return self
        try:
            self._open.enter_context(single_writer(self.location, "capture", patience=self._patience))
            self.prepared: Prepared = prepare(self.config)
            self._lake = self._open.enter_context(self._create_lake())
            if self.prepared.question is not None:
                self.prepared = self._probed(self.prepared, self.prepared.question)
                self.prepared.check_recipes_differ()
            recipe_id = self.prepared.recipe.recipe_id
            if warning := other_tokenizer(self.prepared, self._lake):
                log.warning("%s", warning)
            known = self._known()
            self.report = CaptureReport(
                run_id=self.run_id,
                recipe_id=recipe_id,
                teacher=self.prepared.files.name,
                expected=expected_rates(self.prepared, self._lake).as_record(),
            )
            self._claims = self._open.enter_context(self._make_claims())
            self._plan = self._planned(known)
            self._ahead = self._open.enter_context(PlanCount(self.prepared, known))
            self._units_ahead = self._plan_units()
            self._note("started")
        except BaseException:
            self._open.close()
            raise
        self._under_way = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with self._open:
            if error is not None:
                self._commit_computed_units()
            self._count_plan()
            if error is None:
                self.last_data_commit = last_data_commit(self._lake)
                self._note("finished")
                return
            try:
                self._note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            except LogitlakeError:
                return  # the first error says more than the second

    def _make_claims(self) -> AbstractContextManager[Claims]:
        return claims_of(
            self.location,
            holder=self.run_id,
            recipe_ids=[recipe.recipe_id for recipe in self.prepared.recipes],
            lease_seconds=self.config.capture.claim_seconds,
        )

    def _planned(self, known: StoredDocuments) -> ClaimedUnits:
        """The work units of this run. `known` is what the lake holds when it begins."""
        recipe_ids = [recipe.recipe_id for recipe in self.prepared.recipes]
        first = chain([known], repeat(None))

        def make_plan(claimed: ClaimedDocuments) -> Plan:
            stored = next(first) or self._known()
            return self.prepared.plan(stored, claimed=claimed, is_capped=not self._claims.shared)

        def held(doc_ids: list[str]) -> set[str]:
            with self._writing:
                return held_by_all(self._lake, recipe_ids, doc_ids)

        poll_seconds = min(5.0, self.config.capture.claim_seconds / 4)
        return ClaimedUnits(
            make_plan,
            claims=self._claims,
            held=held,
            poll_seconds=poll_seconds,
            max_tokens=self.config.capture.max_tokens,
            before_waiting=lambda: self.before_waiting(),
            is_over=self._hours_are_over,
        )

    def _known(self) -> StoredDocuments:
        """What the lake holds at this moment."""
        with self._writing:
            return known_to_all([KnownDocuments(self._lake, r.recipe_id) for r in self.prepared.recipes])

    def commit_notes(self) -> bool:
        """Commit the units before the first one that needs the teacher; returns whether there is such a unit."""
        for number in self._units_ahead:
            if self.needs_teacher(number):
                self._units_ahead = chain([number], self._units_ahead)
                return True
            self.commit(self.compute(number))
        return False

    def units(self) -> Iterator[int]:
        """Numbers of the work units, planned one by one, until the corpora end or a cap is reached."""
        return self._units_ahead

    def _plan_units(self) -> Iterator[int]:
        for number, unit in enumerate(self._plan):
            if unit.documents and self._hours_are_over():
                self._note_hours()
                return
            self._units[number] = unit
            yield number
        self._planned_all = True
        if self._hours_are_over() and self._plan.documents_elsewhere:
            self._note_hours()
        if self._plan.is_capped:
            self.report = replace(self.report, stopped=f"max_tokens {self.config.capture.max_tokens:,} is reached")

    def _hours_are_over(self) -> bool:
        limit = self.config.capture.max_hours
        return limit is not None and time.monotonic() - self._began >= 3600 * limit

    def _note_hours(self) -> None:
        self.report = replace(self.report, stopped=f"max_hours {self.config.capture.max_hours:g} is reached")

    def needs_teacher(self, number: int) -> bool:
        """Whether a unit has documents to compute, or only sources and rejects to record."""
        return bool(self._units[number].documents)

    @property
    def planned_tokens(self) -> int | None:
        """Tokens of the whole plan; None until counted; counting starts with the first unit that needs the teacher."""
        summary = self._plan.summary if self._planned_all else self._ahead.summary
        return None if summary is None else summary.tokens

    def compute(self, number: int) -> int:
        """Run the teacher over a unit; its rows wait here until `commit`. May be called again after an error."""
        unit = self._units[number]
        if not unit.documents:
            none = tuple(CAPTURED.empty_table() for _ in self.prepared.recipes)
            self._waiting[number] = _Computed(unit, none, 0.0)
            return number
        if self.config.capture.count_ahead:
            self._ahead.start()
        # Imported here, so that a run with nothing to do loads no torch.
        from logitlake.pipeline.capture.compute import compute_unit

        self._introduce()
        captured = compute_unit(
            self.prepared.source,
            unit,
            recipe=self.prepared.recipe,
            further=self.prepared.further,
            settings=self.config.capture,
            on_progress=self.on_tokens,
        )
        self._waiting[number] = _Computed(unit, (captured.rows, *captured.further_rows), captured.seconds)
        reach("unit-computed")
        return number

    def commit(self, number: int) -> Receipt:
        """Commit a computed unit and release its rows: rows, sources of its documents, rejects.

        For a unit that is committed already it returns the same receipt.
        """
        with self._writing:
            if number in self._receipts:
                return self._receipts[number]
            self._tried.add(number)
            computed = self._waiting[number]
            recipes = self.prepared.recipes
            receipts = commit_units(
                self._lake,
                [RecipeRows(rows=rows, recipe=r.to_dict()) for r, rows in zip(recipes, computed.rows, strict=True)],
                run_id=self.run_id,
                seconds=computed.seconds,
                sources=sources_of(computed.unit),
                rejects=rejects_of(computed.unit),
            )
            receipt = _of_all(receipts)
            del self._waiting[number], self._units[number]
            self._receipts[number] = receipt
            self._claims.release([tokenized.document.doc_id for tokenized in computed.unit.documents])
            if receipt.n_documents:
                self._count(receipt, computed.seconds)
            return receipt

    def _commit_computed_units(self) -> None:
        """Wait for a running commit of another thread, then commit the units that no thread has tried."""
        with self._writing:
            numbers = [number for number in self._waiting if number not in self._tried]
        try:
            for number in numbers:
                self.commit(number)
        except (LogitlakeError, OSError) as error:
            log.warning("a computed unit could not be committed: %s", error)

    def _probed(self, prepared: Prepared, question: str) -> Prepared:
        """Probe the teacher for the value that gives `target.target_bytes`, and store it beside the data."""
        from logitlake.pipeline.capture.target_size import probe
        from logitlake.pipeline.teachers.top_k_engine import TopKEngine

        engine = self._load(prepared)
        assert not isinstance(engine, TopKEngine), "prepare refuses target_bytes with such an engine"
        first = next(prepared.plan(lambda doc_ids: set()), None)
        documents = first.documents if first else ()
        result = probe(documents, engine=engine, target=self.config.target, settings=self.config.capture)
        keep_probe(self.location, question, {"setting": result.setting, "value": result.value})
        return prepared.answered(result.value)

    def _introduce(self) -> None:
        """Load the teacher and register its recipes and vocabulary: once, when the first unit needs them."""
        if not self._introduced:
            prepared = self.prepared
            self._load(prepared)
            tokens, special = prepared.tokenizer.token_texts(), set(prepared.tokenizer.special_ids())
            with self._writing:
                for recipe in prepared.recipes:
                    register_recipe(self._lake, recipe.to_dict())
                    if recipe.teacher.config_hash is None and prepared.files.config_hash is not None:
                        note_config(self.location, recipe.recipe_id, prepared.files.config_hash)
                    register_vocabulary(self._lake, recipe.tokenizer, tokens, special)
            self._introduced = True

    def _load(self, prepared: Prepared) -> "Engine | TopKEngine":
        """The teacher, loaded once; unloaded when the run ends."""
        from logitlake.pipeline.capture.compute import loaded_teacher, unload_teacher

        quiet_transformers()
        self._open.callback(unload_teacher)
        engine = loaded_teacher(prepared.source)
        self._engine = engine.description
        return engine

    def unload_teacher(self) -> None:
        """Release the teacher; the next unit loads it again."""
        from logitlake.pipeline.capture.compute import unload_teacher

        unload_teacher()

    def _create_lake(self) -> Lake:
        lake = self.config.lake
        return Lake.create(
            self.location,
            held_out_salt=lake.held_out.salt,
            held_out_share=lake.held_out.share,
            lock_timeout=lake.lock_timeout_seconds,
        )

    def _count(self, receipt: Receipt, seconds: float) -> None:
        report = self.report
        self.report = replace(
            report,
            n_units=report.n_units + 1,
            n_documents=report.n_documents + receipt.n_documents,
            n_tokens=report.n_tokens + receipt.n_tokens,
            n_targets=report.n_targets + receipt.n_targets,
            n_bytes=report.n_bytes + receipt.n_bytes,
            teacher_seconds=report.teacher_seconds + seconds,
            commit_number=receipt.commit_number,
        )

    def _count_plan(self) -> None:
        summary = self._plan.summary
        self.report = replace(
            self.report,
            documents_seen=summary.documents,
            documents_known=summary.stored,
            documents_repeated=summary.repeated,
            documents_elsewhere=self._plan.documents_elsewhere,
            documents_rejected=summary.rejected,
            seconds=time.monotonic() - self._began,
        )
        if self.planned_tokens is not None:
            counted = {**self.report.expected, "tokens": self.planned_tokens}
            self.report = replace(self.report, expected=counted)

    def _note(self, event: str, **more: Any) -> None:
        detail = {"report": self.report.as_record(), "expected": self.report.expected, "engine": self._engine, **more}
        note_run(self._lake, self.run_id, event, kind="capture", recipe_id=self.report.recipe_id, **detail)


def _of_all(receipts: Sequence[Receipt]) -> Receipt:
    """One receipt for a pass: the documents and tokens that the teacher read, the targets and bytes of all recipes."""
    widest = max(receipts, key=lambda receipt: receipt.n_documents)
    return replace(
        widest,
        n_targets=sum(receipt.n_targets for receipt in receipts),
        n_bytes=sum(receipt.n_bytes for receipt in receipts),
    )
