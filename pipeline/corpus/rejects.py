"""Counts rejects, and stops the reading of a corpus with too many."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError


class RejectGuard:
    """Counts documents and rejects of one corpus, and raises CorpusError if rejects exceed `max_reject_share`.

    The share is checked after `reject_grace` documents and rejects, so that one bad line does not stop a small corpus.
    A corpus with rejects and without any usable document is refused at its end, whatever its size.

    With `stops=False` nothing is raised: `refusal` is then the error that would have been, or None.
    """

    def __init__(self, settings: CorpusSettings, *, stops: bool = True) -> None:
        self.refusal: CorpusError | None = None
        self._settings = settings
        self._stops = stops
        self._n_documents = 0
        self._reasons: Counter[str] = Counter()
        self._first: Reject | None = None
        self._ended = False

    def watch(self, stream: Iterable[Document | Reject]) -> Iterator[Document | Reject]:
        """Yield the stream unchanged and count it. Raises CorpusError."""
        for item in stream:
            if isinstance(item, Reject):
                self._count(item)
            else:
                self._n_documents += 1
            yield item
        self._ended = True
        self._judge_end()

    def refuse(self, reject: Reject) -> None:
        """Count a document that was read as a reject, for example because it is too short. Raises CorpusError."""
        self._n_documents -= 1
        self._count(reject)
        if self._ended:
            self._judge_end()

    def _count(self, reject: Reject) -> None:
        self._first = self._first or reject
        self._reasons[reject.reason] += 1
        n_rejects = self._reasons.total()
        n_read = self._n_documents + n_rejects
        if n_read >= self._settings.reject_grace and n_rejects > self._settings.max_reject_share * n_read:
            self._refuse(n_read, self._first)

    def _judge_end(self) -> None:
        if self._first is not None and self._n_documents == 0 and self._settings.max_reject_share < 1:
            self._refuse(self._reasons.total(), self._first)

    def _refuse(self, n_read: int, first: Reject) -> None:
        self.refusal = self.refusal or _too_many(self._settings, self._reasons, n_read, first)
        if self._stops:
            raise self.refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectCount:
    """The rejects of one corpus with one reason, and the first of them."""

    n_rejects: int
    first: Reject


class RejectTally:
    """Rejects by corpus and reason, with an example of each; memory is one reject for each pair."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], RejectCount] = {}

    def add(self, reject: Reject) -> None:
        """Count one reject."""
        key = (reject.corpus, str(reject.reason))
        count = self._counts.get(key) or RejectCount(n_rejects=0, first=reject)
        self._counts[key] = replace(count, n_rejects=count.n_rejects + 1)

    def counts(self) -> list[RejectCount]:
        """By corpus in the order of reading, the most frequent reason first."""
        corpora = list(dict.fromkeys(corpus for corpus, _ in self._counts))
        return sorted(
            self._counts.values(),
            key=lambda count: (corpora.index(count.first.corpus), -count.n_rejects, str(count.first.reason)),
        )


def _too_many(settings: CorpusSettings, reasons: Counter[str], n_read: int, first: Reject) -> CorpusError:
    name = settings.name
    kinds = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    where = first.source if first.line is None else f"{first.source}:{first.line}"
    return CorpusError(
        f"corpus {name}: {reasons.total()} of the first {n_read} documents can't be used ({kinds}), "
        f"corpora.{name}.max_reject_share allows {settings.max_reject_share:.1%}; "
        f"the first is {where}: {first.detail}; correct the corpus or its field names, or allow a greater share"
    )
