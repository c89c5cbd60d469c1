"""One execution of the teacher flow, without Prefect: the lake, the plan, the teacher once it is needed, the counts.

The flow calls `units`, `compute` and `commit` in turn; everything that was committed stays, however the run ends.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import pyarrow as pa

from logitlake.flows.capture.estimate import expected_rates
from logitlake.flows.capture.plan_count import PlanCount
from logitlake.flows.capture.preparation import Prepared, prepare
from logitlake.flows.reports import CaptureReport
from logitlake.flows.settings import location_of, require_capture_settings
from logitlake.flows.terminal.output import say
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.capture.planning import Plan, WorkUnit
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.teachers.registry import load_engine
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.lake.schema import SEQUENCES
from logitlake.storage.writing.commits import REJECTS, SOURCES, Receipt, commit_unit, unit_id_of
from logitlake.storage.writing.known_documents import KnownDocuments
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run
from logitlake.storage.writing.target_size_answers import keep_probe


@dataclass(frozen=True, slots=True, eq=False)
class _Computed:
    """A unit whose rows wait to be committed."""

    unit: WorkUnit
    rows: pa.Table
    seconds: float


class CaptureRun:
    """A context manager around one run. Not shared between threads, but `commit` may run in another than `compute`.

    The lake's one connection is used by one thread at a time. On the way out of an error a commit that is being made
    is waited for, and what was computed and has not been tried yet is committed: no unit is paid for twice.
    """

    def __init__(
        self, config: Config, *, on_tokens: Callable[[int], None] = lambda n: None, patience: float = 0.0
    ) -> None:
        """`patience`: seconds to wait for another capture of this lake before this one is refused."""
        require_capture_settings(config)
        self._patience = patience
        self.config = config
        self.location = location_of(config)
        self.run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._on_tokens = on_tokens
        self._planned_all = False
        self._began = time.monotonic()
        self._open = ExitStack()
        self._waiting: dict[int, _Computed] = {}
        self._units: dict[int, WorkUnit] = {}
        self._writing = threading.Lock()
        self._tried: set[int] = set()
        self._receipts: dict[int, Receipt] = {}
        self._engine: Any = None
        self._introduced = False

    def __enter__(self) -> "CaptureRun":
        try:
            self._open.enter_context(single_writer(self.location, "capture", patience=self._patience))
            self.prepared: Prepared = prepare(self.config)
            self._lake = self._open.enter_context(self._create_lake())
            if self.prepared.question is not None:
                self.prepared = self._probed(self.prepared, self.prepared.question)
            recipe_id = self.prepared.recipe.recipe_id
            known = KnownDocuments(self._lake, recipe_id)
            self.report = CaptureReport(
                run_id=self.run_id,
                recipe_id=recipe_id,
                teacher=self.prepared.files.name,
                expected=expected_rates(self.prepared, self._lake).as_record(),
            )
            self._plan: Plan = self.prepared.plan(known)
            self._ahead = self._open.enter_context(PlanCount(self.prepared, known))
            self._note("started")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is not None:
                self._commit_what_waits()
            self._count_plan()
            if error is None:
                self._note("finished")
                return
            try:
                self._note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            except LogitlakeError:
                return  # the first error says more than the second

    def units(self) -> Iterator[int]:
        """Numbers of the work units, planned as they are asked for, until the corpora end or a cap is reached."""
        for number, unit in enumerate(self._plan):
            hours = (time.monotonic() - self._began) / 3600
            if unit.documents and self.config.capture.max_hours is not None and hours >= self.config.capture.max_hours:
                self.report = replace(self.report, stopped=f"max_hours {self.config.capture.max_hours:g} is spent")
                return
            self._units[number] = unit
            yield number
        self._planned_all = True
        if self._plan.summary.capped:
            self.report = replace(self.report, stopped=f"max_tokens {self.config.capture.max_tokens:,} is reached")

    def needs_teacher(self, number: int) -> bool:
        """Whether a unit has documents to compute, or only notes where known ones were seen."""
        return bool(self._units[number].documents)

    @property
    def planned_tokens(self) -> int | None:
        """Tokens of the whole plan; None until they are counted, which begins when the first unit needs the teacher."""
        summary = self._plan.summary if self._planned_all else self._ahead.summary
        return None if summary is None else summary.tokens

    def compute(self, number: int) -> int:
        """Run the teacher over a unit; its rows wait here until `commit`. May be called again after an error."""
        unit = self._units[number]
        if not unit.documents:
            self._waiting[number] = _Computed(unit, SEQUENCES.empty_table(), 0.0)
            return number
        if self.config.capture.count_ahead:
            self._ahead.start()
        # Imported here, so that a run with nothing to do loads no torch.
        from logitlake.pipeline.capture.unit import capture_unit

        captured = capture_unit(
            unit,
            unit_id=unit_id_of(self.report.recipe_id, [document.document.doc_id for document in unit.documents]),
            engine=self._teacher(),
            recipe=self.prepared.recipe,
            settings=self.config.capture,
            on_progress=self._on_tokens,
        )
        self._waiting[number] = _Computed(unit, captured.rows, captured.seconds)
        reach("unit-computed")
        return number

    def commit(self, number: int) -> Receipt:
        """Commit a computed unit and let go of it: rows, where its documents were seen, what was rejected.

        Called again for a unit that is committed it returns the receipt of then.
        """
        with self._writing:
            if number in self._receipts:
                return self._receipts[number]
            self._tried.add(number)
            computed = self._waiting[number]
            receipt = commit_unit(
                self._lake,
                computed.rows,
                recipe=self.prepared.recipe.to_dict(),
                run_id=self.run_id,
                seconds=computed.seconds,
                sources=_sources(computed.unit),
                rejects=_rejects(computed.unit),
            )
            del self._waiting[number], self._units[number]
            self._receipts[number] = receipt
            if receipt.n_documents:
                self._count(receipt, computed.seconds)
            return receipt

    def _commit_what_waits(self) -> None:
        """Wait for the commit that another thread is making, and make those that none has begun."""
        with self._writing:
            numbers = [number for number in self._waiting if number not in self._tried]
        try:
            for number in numbers:
                self.commit(number)
        except (LogitlakeError, OSError) as error:
            say(f"a computed unit could not be committed: {error}")

    def _probed(self, prepared: Prepared, question: str) -> Prepared:
        """Let the teacher choose the value that gives `target.target_bytes`, and keep it beside the data."""
        from logitlake.pipeline.capture.target_size import probe

        first = next(prepared.plan(lambda doc_ids: set()), None)
        documents = first.documents if first else ()
        result = probe(documents, engine=self._load(prepared), target=self.config.target, settings=self.config.capture)
        keep_probe(self.location, question, {"setting": result.setting, "value": result.value})
        return prepared.answered(result.value)

    def _teacher(self) -> Any:
        """The engine, and the lake told whose targets are coming: once, when the first unit needs them."""
        if not self._introduced:
            prepared = self.prepared
            self._load(prepared)
            tokens, special = prepared.tokenizer.token_texts(), set(prepared.tokenizer.special_ids())
            with self._writing:
                register_recipe(self._lake, prepared.recipe.to_dict())
                register_vocabulary(self._lake, prepared.tokenizer.fingerprint, tokens, special)
            self._introduced = True
        return self._engine

    def _load(self, prepared: Prepared) -> Any:
        if self._engine is None:
            quiet_transformers()
            size = prepared.tokenizer.vocab_size
            self._engine = load_engine(prepared.teacher, prepared.files, vocab_size=size)
        return self._engine

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
            documents_known=summary.known,
            documents_repeated=summary.repeated,
            documents_rejected=summary.rejected,
            seconds=time.monotonic() - self._began,
        )
        if self.planned_tokens is not None:
            counted = {**self.report.expected, "tokens": self.planned_tokens}
            self.report = replace(self.report, expected=counted)

    def _note(self, event: str, **more: Any) -> None:
        engine = {} if self._engine is None else self._engine.description
        detail = {"report": self.report.as_record(), "expected": self.report.expected, "engine": engine, **more}
        note_run(self._lake, self.run_id, event, kind="capture", recipe_id=self.report.recipe_id, **detail)


def _sources(unit: WorkUnit) -> pa.Table:
    """Where every document of the unit was seen, and those that were stored already."""
    seen = [tokenized.document for tokenized in unit.documents]
    places = [(document.doc_id, document.corpus, document.source, document.line) for document in seen]
    places += [(sighting.doc_id, sighting.corpus, sighting.source, sighting.line) for sighting in unit.duplicates]
    return _table(places, SOURCES)


def _rejects(unit: WorkUnit) -> pa.Table:
    return _table([(r.corpus, r.source, r.line, str(r.reason), r.detail) for r in unit.rejects], REJECTS)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
