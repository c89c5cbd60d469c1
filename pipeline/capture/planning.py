"""Plans a capture: new documents → work units → token-budget batches.

The plan depends only on the stream of documents and on the stored ids, not on the size of a lookup. Memory is one
lookup of documents, one work unit, and about 150 bytes for the id of each new document.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, Trace
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer

StoredDocuments = Callable[[list[str]], set[str]]
# Those of some documents that another run computes now.
ClaimedDocuments = Callable[[list[str]], set[str]]

_LOOKUP_DOCUMENTS = 1000
_LOOKUP_CHARACTERS = 16 * 2**20
# Of a trace, whose ids are there already, for the bound above.
_CHARACTERS_PER_TOKEN = 4
# A unit closes early at this number of rejects and sightings, to bound memory.
_NOTES_PER_UNIT = 50_000


class Sighting(NamedTuple):
    """Corpus, source and line of a document that is stored already, or is in this or an earlier unit of the plan."""

    doc_id: str
    corpus: str
    source: str
    line: int | None


@dataclass(frozen=True, slots=True, eq=False)
class WorkUnit:
    """Whole documents to compute together; a unit without documents has only rejects and duplicates to commit.

    It can be pickled.
    """

    documents: tuple[TokenizedDocument, ...]
    rejects: tuple[Reject, ...]
    duplicates: tuple[Sighting, ...]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Counts of the plan so far.

    Readable `documents` are `stored` in the lake, `new`, `repeated` in this run, or `claimed` by another run that
    computes them now; unreadable ones, and new ones without a target, are `rejected`. `tokens` are what the teacher
    reads, `units` those with documents. `capped`: the plan ended at `max_tokens`, before the end of the corpus.
    """

    documents: int = 0
    stored: int = 0
    new: int = 0
    repeated: int = 0
    claimed: int = 0
    rejected: int = 0
    sequences: int = 0
    tokens: int = 0
    targets: int = 0
    units: int = 0
    capped: bool = False


class Plan(Iterator[WorkUnit]):
    """The documents of a stream that are not stored yet, once each, as work units in the order of the stream.

    A unit closes before it would exceed `unit_tokens`; a longer document is a
    unit by itself. The first document that would exceed `max_tokens` ends the plan; later documents are not read.
    """

    def __init__(
        self,
        documents: Iterable[Document | Reject],
        *,
        stored: StoredDocuments,
        tokenizer: TextTokenizer,
        tokenization: TokenizationSettings,
        unit_tokens: int,
        max_tokens: int | None = None,
        lookup_documents: int = _LOOKUP_DOCUMENTS,
        on_reject: Callable[[Reject], None] = lambda reject: None,
        claimed: ClaimedDocuments = lambda doc_ids: set(),
    ) -> None:
        """`stored` gets up to `lookup_documents` ids at a time and returns those stored under the recipe.

        `claimed` gets the others and returns those to leave out.

        `on_reject` is called with each document that the plan itself rejects, and may raise.
        """
        self._stored = stored
        self._claimed = claimed
        self._on_reject = on_reject
        self._tokenizer = tokenizer
        self._tokenization = tokenization
        self._unit_tokens = unit_tokens
        self._max_tokens = max_tokens
        self._planned: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._capped = False
        self._open_unit()
        self._units = self._make_units(_lookups(documents, lookup_documents))

    def __next__(self) -> WorkUnit:
        return next(self._units)

    @property
    def summary(self) -> PlanSummary:
        """Counts up to now; of the whole plan once there are no more units."""
        return PlanSummary(**self._counts, capped=self._capped)

    def _make_units(self, lookups: Iterable[list[Document | Reject]]) -> Iterator[WorkUnit]:
        for items in lookups:
            yield from self._assign(items)
            if self._capped:
                break
        if self._documents or self._rejects or self._duplicates:
            yield self._close_unit()

    def _assign(self, items: list[Document | Reject]) -> Iterator[WorkUnit]:
        """Add one lookup's items to the open unit in order; yields each unit that closes."""
        # Reversed, so that the first of equal documents stays.
        first_of = {item.doc_id: item for item in reversed(items) if isinstance(item, Document)}
        doc_ids = [doc_id for doc_id in first_of if doc_id not in self._planned]
        stored = self._stored(doc_ids)
        claimed = self._claimed([doc_id for doc_id in doc_ids if doc_id not in stored])
        missing = [first_of[doc_id] for doc_id in doc_ids if doc_id not in stored and doc_id not in claimed]
        outcomes = tokenize_documents(missing, self._tokenizer, self._tokenization)
        outcome_of = {document.doc_id: outcome for document, outcome in zip(missing, outcomes, strict=True)}
        for item in items:
            if isinstance(item, Reject):
                self._rejects.append(item)
            elif item.doc_id in stored:
                self._note_duplicate(item, "stored")
            elif item.doc_id in claimed:
                is_first = first_of[item.doc_id] is item
                self._counts.update(documents=1, claimed=is_first, repeated=not is_first)
            elif item.doc_id in self._planned:
                self._note_duplicate(item, "repeated")
            else:
                outcome = outcome_of[item.doc_id]
                if isinstance(outcome, Reject):
                    reject = replace(outcome, corpus=item.corpus, source=item.source, line=item.line)
                    self._on_reject(reject)
                    self._rejects.append(reject)
                else:
                    if self._passes_cap(outcome):
                        self._capped = True
                        return
                    if self._documents and self._n_tokens + outcome.n_tokens > self._unit_tokens:
                        yield self._close_unit()
                    self._add(outcome)
            if len(self._rejects) + len(self._duplicates) >= _NOTES_PER_UNIT:
                yield self._close_unit()

    def _passes_cap(self, document: TokenizedDocument) -> bool:
        planned = self._counts["tokens"] + document.n_tokens
        return self._max_tokens is not None and planned > self._max_tokens

    def _note_duplicate(self, document: Document, kind: str) -> None:
        self._counts[kind] += 1
        self._counts["documents"] += 1
        self._duplicates.append(Sighting(document.doc_id, document.corpus, document.source, document.line))

    def _add(self, document: TokenizedDocument) -> None:
        self._planned.add(document.document.doc_id)
        self._documents.append(document)
        self._n_tokens += document.n_tokens
        self._counts.update(
            documents=1,
            new=1,
            tokens=document.n_tokens,
            sequences=len(document.sequences),
            targets=sum(int(sequence.has_target.sum()) for sequence in document.sequences),
        )

    def _open_unit(self) -> None:
        self._documents: list[TokenizedDocument] = []
        self._rejects: list[Reject] = []
        self._duplicates: list[Sighting] = []
        self._n_tokens = 0

    def _close_unit(self) -> WorkUnit:
        unit = WorkUnit(tuple(self._documents), tuple(self._rejects), tuple(self._duplicates), self._n_tokens)
        self._counts.update(units=1 if unit.documents else 0, rejected=len(unit.rejects))
        self._open_unit()
        return unit


def count_plan(plan: Plan, on_unit: Callable[[WorkUnit], None] = lambda unit: None) -> PlanSummary:
    """The counts of a capture: makes, counts and drops every unit. `on_unit` is called with each of them."""
    for unit in plan:
        on_unit(unit)
    return plan.summary


def make_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of sequences in batches of similar length, longest first, each index once.

    Padded to its longest sequence a batch holds at most `batch_tokens` tokens, unless it is one sequence longer than
    that. Ties keep their order. Cost: one sort.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if room == 0:
            batches.append([])
            room = max(batch_tokens // max(lengths[index], 1), 1)
        batches[-1].append(index)
        room -= 1
    return batches


def _lookups(stream: Iterable[Document | Reject], most: int) -> Iterator[list[Document | Reject]]:
    """The stream in pieces of at most `most` items, fewer where documents are long."""
    items: list[Document | Reject] = []
    characters = 0
    for item in stream:
        items.append(item)
        if isinstance(item, Document):
            characters += _characters(item)
        if len(items) >= most or characters >= _LOOKUP_CHARACTERS:
            yield items
            items, characters = [], 0
    if items:
        yield items


def _characters(document: Document) -> int:
    content = document.content
    if isinstance(content, str):
        return len(content)
    if isinstance(content, Pair):
        return len(content.prompt) + len(content.completion)
    if isinstance(content, Trace):
        return _CHARACTERS_PER_TOKEN * (len(content.prompt_ids) + len(content.completion_ids))
    assert isinstance(content, Chat)
    return sum(len(str(message.get("content", ""))) for message in content.messages)
