"""Reading any corpus: its settings choose the reader. A new kind is one file here and one line in `CORPORA`."""

from collections.abc import Iterator

from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.settings.corpus import CorpusSettings


def read_corpus(settings: CorpusSettings) -> Iterator[Document | Reject]:
    """Every document of a corpus, and a reject for each line, row or file that is none, in a fixed order, streamed.

    Raises CorpusError, at the first item or later, if the corpus can't be read.
    """
    return settings.read()
