"""JSON Lines, one document a line: plain, .gz or .zst, a file or a directory of them."""

from collections.abc import Iterator
from typing import Literal

import orjson

from logitlake.pipeline.corpus.document import Document, DocumentBuilder, Reject, RejectReason, document_builder
from logitlake.pipeline.corpus.files import CorpusFile, corpus_files, unreadable
from logitlake.pipeline.corpus.streams import CORRUPT_STREAM, MAX_LINE_BYTES, lines, open_stream
from logitlake.pipeline.settings.corpus import CorpusSettings

_DEFAULT_GLOB = tuple(f"**/*.{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonlCorpus(CorpusSettings):
    """JSON Lines files below `path`."""

    kind: Literal["jsonl"] = "jsonl"

    def read(self) -> Iterator[Document | Reject]:
        return read_jsonl(self)


def read_jsonl(settings: CorpusSettings, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Document | Reject]:
    """The documents and rejects of a JSON Lines corpus, streamed: memory is one line.

    Blank lines are counted and skipped. A file with damaged compression gives the lines before it and one reject.
    Raises CorpusError if the corpus or one of its files can't be opened.
    """
    build = document_builder(settings)
    for file in corpus_files(settings.name, settings.path, settings.glob, _DEFAULT_GLOB):
        yield from _read_file(settings.name, file, build, max_line_bytes)


def _read_file(
    corpus: str, file: CorpusFile, build: DocumentBuilder, max_line_bytes: int
) -> Iterator[Document | Reject]:
    number = 0
    source = file.source
    try:
        with open_stream(file.path) as stream:
            for number, line in enumerate(lines(stream, max_line_bytes), start=1):
                if isinstance(line, int):
                    detail = f"line of {line} bytes, at most {max_line_bytes} are read"
                    yield Reject(corpus, source, number, RejectReason.TOO_LONG, detail)
                    continue
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    if not line.isspace() and line:
                        yield _not_json(corpus, source, number, line, error)
                    continue
                yield build(record, source, number)
    except CORRUPT_STREAM as error:
        detail = f"the compressed data is torn after line {number}: {error}"
        yield Reject(corpus, source, number + 1, RejectReason.CORRUPT_FILE, detail)
    except OSError as error:
        raise unreadable(corpus, file, error) from None


def _not_json(corpus: str, source: str, number: int, line: bytes, error: orjson.JSONDecodeError) -> Reject:
    """The reject of a line that orjson refused: it says the same of bad JSON and of bytes that are not UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return Reject(corpus, source, number, RejectReason.NOT_UTF8, str(undecodable))
    return Reject(corpus, source, number, RejectReason.BAD_JSON, str(error))
