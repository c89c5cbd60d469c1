"""When too much of a corpus is unusable to go on."""

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.config import CorpusSettings
from pipeline.corpus.document import Document, Reject
from storage.errors import CorpusError


def guard_rejects(stream: Iterable[Document | Reject], settings: CorpusSettings) -> Iterator[Document | Reject]:
    """The stream of one corpus, unchanged, until its rejects pass `max_reject_share`.

    The share is judged once `reject_grace` documents and rejects were read, so that one bad line does not stop a small
    corpus; a corpus with rejects and no document at all is refused at its end, whatever its size. Raises CorpusError.
    """
    n_documents = 0
    reasons: Counter[str] = Counter()
    first: Reject | None = None
    for item in stream:
        if isinstance(item, Reject):
            first = first or item
            reasons[item.reason] += 1
            n_rejects = reasons.total()
            n_read = n_documents + n_rejects
            if n_read >= settings.reject_grace and n_rejects > settings.max_reject_share * n_read:
                raise _too_many(settings, reasons, n_read, first)
        else:
            n_documents += 1
        yield item
    if first is not None and n_documents == 0 and settings.max_reject_share < 1:
        raise _too_many(settings, reasons, reasons.total(), first)


def _too_many(settings: CorpusSettings, reasons: Counter[str], n_read: int, first: Reject) -> CorpusError:
    name = settings.name
    kinds = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    place = first.source if first.line is None else f"{first.source}:{first.line}"
    return CorpusError(
        f"corpus {name}: {reasons.total()} of the first {n_read} documents can't be used ({kinds}), "
        f"corpora.{name}.max_reject_share allows {settings.max_reject_share:.1%}; "
        f"the first is {place}: {first.detail}; mend the corpus or its field names, or allow a greater share"
    )
