"""Stops the reading of a corpus with too many rejects."""

from collections import Counter
from collections.abc import Iterable, Iterator

from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError


class RejectGuard:
    """Counts documents and rejects of one corpus, and raises CorpusError if rejects exceed `max_reject_share`.

    The share is checked after `reject_grace` documents and rejects, so that one bad line does not stop a small corpus.
    A corpus with rejects and without any usable document is refused at its end, whatever its size.
    """

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
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
            raise _too_many(self._settings, self._reasons, n_read, self._first)

    def _judge_end(self) -> None:
        if self._first is not None and self._n_documents == 0 and self._settings.max_reject_share < 1:
            raise _too_many(self._settings, self._reasons, self._reasons.total(), self._first)


def _too_many(settings: CorpusSettings, reasons: Counter[str], n_read: int, first: Reject) -> CorpusError:
    name = settings.name
    kinds = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    where = first.source if first.line is None else f"{first.source}:{first.line}"
    return CorpusError(
        f"corpus {name}: {reasons.total()} of the first {n_read} documents can't be used ({kinds}), "
        f"corpora.{name}.max_reject_share allows {settings.max_reject_share:.1%}; "
        f"the first is {where}: {first.detail}; correct the corpus or its field names, or allow a greater share"
    )
