"""The kinds of corpus. A new one is one file and one line here."""

from collections.abc import Callable, Iterator

from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.corpus.readers.huggingface import read_huggingface
from logitlake.pipeline.corpus.readers.jsonl import read_jsonl
from logitlake.pipeline.corpus.readers.parquet import read_parquet
from logitlake.pipeline.corpus.readers.text import read_text
from logitlake.pipeline.settings.models import CorpusSettings

Reader = Callable[[CorpusSettings], Iterator[Document | Reject]]

READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "text": read_text,
    "huggingface": read_huggingface,
}


def read_corpus(settings: CorpusSettings) -> Iterator[Document | Reject]:
    """Every document of a corpus, and every place that could not be one, in a fixed order, streamed.

    Raises CorpusError, at the first item or later, if the corpus can't be read.
    """
    return READERS[settings.kind](settings)
