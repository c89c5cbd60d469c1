"""One execution of `generate`, without Prefect: plan, write and judge, commit, count.

The flow calls `units`, `compute` and `commit` in turn. Committed units stay, however the run ends.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from logitlake.flows.capture.unit_notes import rejects_table
from logitlake.flows.generate.preparation import PreparedWriter, prepare_writer
from logitlake.flows.reports import GenerateReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.progress import quiet_transformers
from logitlake.pipeline.settings.models import Config
from logitlake.pipeline.settings.registry import WRITERS
from logitlake.pipeline.traces.planning import TracePlan, TraceUnit
from logitlake.pipeline.traces.unit import WrittenTraces, check_references, judge_traces, write_traces
from logitlake.storage.errors import LogitlakeError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.writing.commits import SOURCES
from logitlake.storage.writing.runs import note_run
from logitlake.storage.writing.sightings import note_sightings
from logitlake.storage.writing.traces import (
    TRACES,
    VERDICTS,
    Sample,
    TraceReceipt,
    commit_traces,
    forgotten_among,
    stored_samples,
    stored_traces,
)

if TYPE_CHECKING:
    from logitlake.pipeline.traces.writer import LoadWriter, Writer


class GenerateRun:
    """A context manager around one run; used by one thread.

    A run that is under way can be entered again, by the flow that continues it: the first exit ends it.
    """

    def __init__(
        self, config: Config, *, on_tokens: Callable[[int], None] = lambda n: None, patience: float = 0.0
    ) -> None:
        """`patience`: seconds to wait for another such run of this lake before this one is refused."""
        self.config = config
        self.location = location_of(config)
        self.run_id = new_run_id()
        self.on_tokens = on_tokens
        self._patience = patience
        self._under_way = self._is_closed = False
        self._began = time.monotonic()
        self._open = ExitStack()
        self._units: dict[int, TraceUnit] = {}
        self._written: dict[int, WrittenTraces] = {}
        self._verdicts: dict[int, pa.Table] = {}
        self._writer: Writer | None = None

    def __enter__(self) -> "GenerateRun":
        if self._under_way:
            return self
        try:
            self._open.enter_context(single_writer(self.location, "generate", patience=self._patience))
            self.prepared: PreparedWriter = prepare_writer(self.config)
            self._lake = self._open.enter_context(self._create_lake())
            self.report = GenerateReport(
                run_id=self.run_id,
                sampling_id=self.prepared.recipe.sampling_id,
                verifier_id=self.config.generate.verifier.verifier_id,
                writer=self.prepared.name,
            )
            self._plan = planned(self.prepared, self._lake)
            self._units_ahead = self._numbered()
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
            self._count_plan()
            try:
                self._note_end(error)
            finally:
                # A capture may follow in this process, whose teacher needs the memory.
                self._writer = None
                gc.collect()

    def commit_notes(self) -> bool:
        """Commit the units before the first one that has something to write or judge; whether there is such a unit."""
        for number in self._units_ahead:
            if self.needs_work(number):
                self._units_ahead = chain([number], self._units_ahead)
                return True
            self.commit(self.compute(number))
        return False

    def units(self) -> Iterator[int]:
        """Numbers of the work units, planned one by one."""
        return self._units_ahead

    def needs_work(self, number: int) -> bool:
        """Whether a unit has samples to write or traces to judge, or only rejects to record."""
        return bool(self._units[number].requests or self._units[number].unjudged)

    def compute(self, number: int) -> int:
        """Write and judge a unit; its rows wait here until `commit`. May be called again after an error.

        An error of the verifier costs nothing that was written: the traces are committed, and wait for a verdict.
        """
        unit, verifier = self._units[number], self.config.generate.verifier
        check_references(unit, verifier)
        if number not in self._written:
            self._written[number] = write_traces(
                unit,
                self._loaded() if unit.requests else None,
                recipe=self.prepared.recipe,
                tokenizer=self.prepared.tokenizer,
                on_tokens=self.on_tokens,
            )
        stored = stored_traces(self._lake, unit.unjudged) if unit.unjudged else TRACES.empty_table()
        try:
            self._verdicts[number] = judge_traces(unit, [stored, self._written[number].traces], verifier)
        except BaseException:
            self._commit_rows(number, VERDICTS.empty_table())
            raise
        if self.needs_work(number):
            reach("unit-computed")
        return number

    def commit(self, number: int) -> int:
        """Commit a computed unit and its rejects; returns its number. May be called again after an error."""
        unit, traces, verdicts = self._units[number], self._written[number].traces, self._verdicts[number]
        n_waiting = len(set(traces["doc_id"].to_pylist()).union(unit.unjudged)) - verdicts.num_rows
        note_sightings(self._lake, self.run_id, SOURCES.empty_table(), rejects_table(unit.rejects))
        if traces.num_rows or verdicts.num_rows:
            self._commit_rows(number, verdicts)
            self.report = replace(self.report, n_units=self.report.n_units + 1)
        self.report = replace(self.report, n_waiting=self.report.n_waiting + n_waiting)
        del self._units[number], self._written[number], self._verdicts[number]
        return number

    def _commit_rows(self, number: int, verdicts: pa.Table) -> None:
        written = self._written[number]
        if written.traces.num_rows or verdicts.num_rows:
            receipt = commit_traces(self._lake, written.traces, verdicts, run_id=self.run_id)
            self._count(receipt, written.seconds)
            # Counted once, also if the unit is judged again after an error.
            self._written[number] = replace(written, seconds=0.0)

    def _numbered(self) -> Iterator[int]:
        for number, unit in enumerate(self._plan):
            self._units[number] = unit
            yield number

    def _loaded(self) -> "Writer":
        """The writer, loaded when the first sample needs it."""
        if self._writer is None:
            # Imported by name, so that a run with nothing to write loads no torch.
            load: LoadWriter = WRITERS.load(self.config.generate.engine)
            quiet_transformers()
            prepared = self.prepared
            self._writer = load(
                prepared.settings,
                prepared.files,
                prepared.sampling,
                vocab_size=prepared.tokenizer.vocab_size,
                batch_sequences=self.config.generate.batch_sequences,
            )
        return self._writer

    def _create_lake(self) -> Lake:
        lake = self.config.lake
        return Lake.create(
            self.location,
            held_out_salt=lake.held_out.salt,
            held_out_share=lake.held_out.share,
            lock_timeout=lake.lock_timeout_seconds,
        )

    def _count(self, receipt: TraceReceipt, seconds: float) -> None:
        report = self.report
        self.report = replace(
            report,
            n_traces=report.n_traces + receipt.n_traces,
            n_tokens=report.n_tokens + receipt.n_tokens,
            n_verdicts=report.n_verdicts + receipt.n_verdicts,
            n_kept=report.n_kept + receipt.n_kept,
            writer_seconds=report.writer_seconds + seconds,
            commit_number=receipt.commit_number,
        )

    def _count_plan(self) -> None:
        summary = self._plan.summary
        self.report = replace(
            self.report,
            prompts=summary.prompts,
            prompts_repeated=summary.repeated,
            prompts_forgotten=summary.forgotten,
            prompts_rejected=summary.rejected,
            samples_stored=summary.samples_stored,
            seconds=time.monotonic() - self._began,
        )

    def _note_end(self, error: BaseException | None) -> None:
        if error is None:
            self._note("finished")
            return
        try:
            self._note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
        except LogitlakeError:
            return  # the first error says more than the second

    def _note(self, event: str, **more: Any) -> None:
        engine = self._writer.description if self._writer else {}
        detail = {"report": self.report.as_record(), "engine": engine, **more}
        note_run(self._lake, self.run_id, event, kind="generate", recipe_id=None, **detail)


def planned(prepared: PreparedWriter, lake: Lake | None) -> TracePlan:
    """What is missing in the lake; everything if there is none yet."""
    if lake is None:
        return prepared.plan(stored=lambda prompt_ids: {}, forgotten=lambda ids: set())
    opened = lake

    def stored(prompt_ids: Sequence[str]) -> dict[tuple[str, int], Sample]:
        verifier_id = prepared.config.generate.verifier.verifier_id
        return stored_samples(opened, prompt_ids, sampling_id=prepared.recipe.sampling_id, verifier_id=verifier_id)

    return prepared.plan(stored=stored, forgotten=lambda ids: forgotten_among(opened, ids))
