"""One import: the files of a folder, batch by batch, into units that are committed one by one.

What the lake holds already is passed over, so an import that was stopped is run again, and a folder that grew brings
its new rows.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitlake.flows.reports import CaptureReport
from logitlake.flows.run_ids import new_run_id
from logitlake.flows.settings import location_of
from logitlake.pipeline.corpus.reject_reason import RejectReason
from logitlake.pipeline.imports.encode import (
    ImportOrigin,
    check_alignment,
    check_rows,
    document_ids,
    encode_sparse_rows,
)
from logitlake.pipeline.imports.files import find_files, read_batches
from logitlake.pipeline.imports.import_format import ImportReader, find_import_format
from logitlake.pipeline.imports.recipe import SEED, imported_recipe
from logitlake.pipeline.imports.sparse_rows import SparseRows
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import CorpusError, LogitlakeError, MismatchError
from logitlake.storage.identity import recipe_id
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.locks import single_writer
from logitlake.storage.schema.sequences import CAPTURED
from logitlake.storage.writing.commits import REJECTS, SOURCES, commit_unit
from logitlake.storage.writing.known_documents import KnownDocuments
from logitlake.storage.writing.recipes import register_recipe, register_vocabulary
from logitlake.storage.writing.runs import note_run


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportJob:
    """What to import. `teacher`: its name, as the user states it. `settings`: a file of the other program."""

    folder: Path
    format_name: str
    teacher: str
    tokenizer: Path
    settings: Path | None
    temperature: float
    window: int
    corpus: str
    check_alignment: bool = True


@dataclass(slots=True)
class _Unit:
    """Rows that wait to be committed together."""

    rows: list[pa.Table] = field(default_factory=list)
    sources: list[tuple[str, str, str, int]] = field(default_factory=list)
    rejects: list[tuple[str, str, int, str, str]] = field(default_factory=list)
    n_tokens: int = 0


def run_import(config: Config, job: ImportJob) -> CaptureReport:
    """Import the folder. Committed units stay, however the run ends.

    Raises SettingsError for a folder, a format or a tokenizer that can't be used, CorpusError for a file that holds
    something else, MismatchError for ids of another tokenizer or targets that are shifted.
    """
    reader = find_import_format(job.format_name).open(job.folder, job.settings)
    files = find_files(job.folder)
    tokenizer = load_tokenizer(job.tokenizer)
    recipe = imported_recipe(
        format_name=job.format_name,
        reader=reader,
        teacher=job.teacher,
        tokenizer=tokenizer,
        temperature=job.temperature,
        window=job.window,
    )
    began = time.monotonic()
    report = CaptureReport(run_id=new_run_id(), recipe_id=recipe_id(recipe), teacher=job.teacher)
    held_out = config.lake.held_out
    location = location_of(config)
    with (
        single_writer(location, "import"),
        Lake.create(
            location,
            held_out_salt=held_out.salt,
            held_out_share=held_out.share,
            lock_timeout=config.lake.lock_timeout_seconds,
        ) as lake,
    ):
        run = _Run(lake, job, reader, recipe, tokenizer.vocab_size, config.capture.unit_tokens, report)
        run.note("started")
        try:
            for unit in run.units(files):
                if not run.report.n_units:
                    register_recipe(lake, recipe)
                    register_vocabulary(
                        lake, tokenizer.fingerprint, tokenizer.token_texts(), set(tokenizer.special_ids())
                    )
                run.commit(unit)
        except BaseException as error:
            run.note("failed" if isinstance(error, Exception) else "interrupted", error=str(error))
            raise
        run.report = replace(run.report, seconds=time.monotonic() - began)
        run.note("finished")
        return run.report


class _Run:
    """The state of one import."""

    def __init__(
        self,
        lake: Lake,
        job: ImportJob,
        reader: ImportReader,
        recipe: dict[str, object],
        vocabulary: int,
        unit_tokens: int,
        report: CaptureReport,
    ) -> None:
        self._lake, self._job, self._reader, self._recipe = lake, job, reader, recipe
        self._vocabulary, self._unit_tokens = vocabulary, unit_tokens
        self._known = KnownDocuments(lake, report.recipe_id)
        self._seen: set[str] = set()
        self.report = report

    def units(self, files: list[Path]) -> Iterator[_Unit]:
        """Units of new rows; the last one is smaller."""
        unit = _Unit()
        for file in files:
            source = file.relative_to(self._job.folder).as_posix()
            for first, table in read_batches(file):
                self._add(unit, table, first, source)
                if unit.n_tokens >= self._unit_tokens:
                    yield unit
                    unit = _Unit()
        if unit.rows or unit.rejects:
            yield unit

    def commit(self, unit: _Unit) -> None:
        rows = pa.concat_tables(unit.rows) if unit.rows else CAPTURED.empty_table()
        receipt = commit_unit(
            self._lake,
            rows,
            recipe=self._recipe,
            run_id=self.report.run_id,
            seconds=0.0,
            sources=_table(unit.sources, SOURCES),
            rejects=_table(unit.rejects, REJECTS),
        )
        if receipt.n_documents:
            self.report = replace(
                self.report,
                n_units=self.report.n_units + 1,
                n_documents=self.report.n_documents + receipt.n_documents,
                n_tokens=self.report.n_tokens + receipt.n_tokens,
                n_targets=self.report.n_targets + receipt.n_targets,
                n_bytes=self.report.n_bytes + receipt.n_bytes,
                commit_number=receipt.commit_number,
            )

    def note(self, event: str, **more: object) -> None:
        try:
            record = self.report.as_record()
            run_id, recipe = self.report.run_id, self.report.recipe_id
            note_run(self._lake, run_id, event, kind="import", recipe_id=recipe, report=record, **more)
        except LogitlakeError:
            if "error" not in more:  # the first error says more than the second
                raise

    def _add(self, unit: _Unit, table: pa.Table, first: int, source: str) -> None:
        """Add the new rows of a batch to a unit; `first` rows of the file come before it."""
        try:
            rows = self._reader.read(table)
            check_rows(rows, self._vocabulary)
            if self._job.check_alignment:
                check_alignment(rows)
        except CorpusError as error:
            raise CorpusError(f"{self._job.folder / source}, rows from {first + 1}: {error}") from None
        except MismatchError as error:
            raise MismatchError(f"{self._job.folder / source}, rows from {first + 1}: {error}") from None
        rows = replace(rows, lines=rows.lines + first)
        doc_ids = document_ids(rows)
        wanted = np.array([self._is_wanted(unit, rows, number, source) for number in range(len(doc_ids))], bool)
        known = self._known(doc_ids)
        is_new = np.zeros(len(doc_ids), bool)
        for number in np.flatnonzero(wanted).tolist():
            doc_id = doc_ids[number]
            repeated = doc_id in self._seen
            self._seen.add(doc_id)
            is_new[number] = not repeated and doc_id not in known
            unit.sources.append((doc_id, self._job.corpus, source, int(rows.lines[number])))
            self.report = replace(
                self.report,
                documents_known=self.report.documents_known + (doc_id in known and not repeated),
                documents_repeated=self.report.documents_repeated + repeated,
            )
        self.report = replace(
            self.report,
            documents_seen=self.report.documents_seen + len(doc_ids),
            documents_rejected=self.report.documents_rejected + int((~wanted).sum()),
        )
        if is_new.any():
            origin = ImportOrigin(recipe_id=self.report.recipe_id, corpus=self._job.corpus, source=source, seed=SEED)
            new_ids = [doc_id for doc_id, new in zip(doc_ids, is_new, strict=True) if new]
            encoded = encode_sparse_rows(rows.kept(is_new), new_ids, origin)
            unit.rows.append(encoded)
            unit.n_tokens += sum(encoded["n_tokens"].to_pylist())

    def _is_wanted(self, unit: _Unit, rows: SparseRows, number: int, source: str) -> bool:
        """Whether a row can be used; else it is noted as a reject."""
        begin, end = rows.row_offsets[number : number + 2].tolist()
        reason, detail = None, ""
        if end - begin > self._job.window:
            reason, detail = RejectReason.TOO_LONG, f"{end - begin} tokens, --window is {self._job.window}"
        elif end - begin < 2:
            reason, detail = RejectReason.TOO_SHORT, f"{end - begin} tokens"
        elif rows.offsets[end - 1] == rows.offsets[begin]:
            reason, detail = RejectReason.NO_TARGET, "no position has a target"
        if reason is not None:
            unit.rejects.append((self._job.corpus, source, int(rows.lines[number]), str(reason), detail))
        return reason is None


def _table(rows: list[tuple[str, str, str, int]] | list[tuple[str, str, int, str, str]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
