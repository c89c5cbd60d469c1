"""JSON Lines, one document a line: plain, .gz or .zst, a file or a directory of them."""

import codecs
from collections.abc import Iterator
from functools import partial
from typing import Literal

import orjson

from logitlake.pipeline.corpus.document import Document, DocumentBuilder, Reject, RejectReason, document_builder
from logitlake.pipeline.corpus.files import CorpusFile, read_files
from logitlake.pipeline.corpus.json_line import RepeatedKeyError, TooManyValuesError, parse_json
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
    """The documents and rejects of a JSON Lines corpus, streamed: memory is a few times the longest line.

    Lines over `max_line_bytes`, or of more values than `parse_json` reads, are rejects. Blank lines are counted and
    skipped. A file with damaged compression gives the lines before it and one reject. Raises CorpusError if the corpus
    or one of its files can't be opened.
    """
    read = partial(_read_file, settings.name, document_builder(settings), max_line_bytes)
    return read_files(settings, _DEFAULT_GLOB, read)


def _read_file(
    corpus: str, build: DocumentBuilder, max_line_bytes: int, file: CorpusFile
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
                    record = parse_json(line)
                except TooManyValuesError as error:
                    yield Reject(corpus, source, number, RejectReason.TOO_LONG, f"line of {error}")
                except RepeatedKeyError as error:
                    yield Reject(corpus, source, number, RejectReason.REPEATED_KEY, str(error))
                except orjson.JSONDecodeError as error:
                    if not line.isspace() and line:
                        yield _not_json(corpus, source, number, line, error)
                else:
                    yield build(record, source, number)
    except CORRUPT_STREAM as error:
        detail = f"the compressed data can't be read after line {number}: {error}"
        yield Reject(corpus, source, number + 1, RejectReason.CORRUPT_FILE, detail)


def _not_json(corpus: str, source: str, number: int, line: bytes, error: orjson.JSONDecodeError) -> Reject:
    """The reject of a line that orjson refused: it says the same of bad JSON and of bytes that are not UTF-8."""
    if _is_cut_off(line.rstrip(b"\r\n")):
        detail = "the line is cut off: it ends inside a JSON value"
        return Reject(corpus, source, number, RejectReason.BAD_JSON, detail)
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return Reject(corpus, source, number, RejectReason.NOT_UTF8, str(undecodable))
    return Reject(corpus, source, number, RejectReason.BAD_JSON, str(error))


def _is_cut_off(line: bytes) -> bool:
    """Whether a line without its ending is the beginning of JSON, cut between or inside characters."""
    # The decoder keeps back the beginning of a character at the end, and raises for any other byte that is not UTF-8.
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(line)
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.msg == "unexpected end of data"
    except UnicodeDecodeError:
        return False
    return False
