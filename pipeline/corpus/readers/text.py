"""Text and code: one file, one document."""

from collections.abc import Iterator
from typing import Literal

from logitlake.pipeline.corpus.document import Document, Reject, RejectReason, document_builder
from logitlake.pipeline.corpus.files import CorpusFile, corpus_files, unreadable
from logitlake.pipeline.settings.corpus import CorpusSettings

_DEFAULT_GLOB = ("**/*",)
_MAX_BYTES_PER_CHARACTER = 4
_BYTE_ORDER_MARK = "\ufeff"


class TextCorpus(CorpusSettings):
    """Files below `path`, each one document."""

    kind: Literal["text"] = "text"

    def read(self) -> Iterator[Document | Reject]:
        """The documents and rejects of a tree of files; `line` is None.

        The text is the file's, newlines as they are, without a byte order mark. Raises CorpusError if the corpus or one
        of its files can't be opened.
        """
        shape = {"prompt_field": None, "completion_field": None, "messages_field": None}
        build = document_builder(self.model_copy(update=shape))
        for file in corpus_files(self.name, self.path, self.glob, _DEFAULT_GLOB):
            content = _read_file(self, file)
            if isinstance(content, Reject):
                yield content
            else:
                yield build({self.text_field: content}, file.source, None)


def _read_file(settings: CorpusSettings, file: CorpusFile) -> str | Reject:
    most = settings.max_characters
    try:
        size = file.path.stat().st_size
        if most is not None and size > most * _MAX_BYTES_PER_CHARACTER + len(_BYTE_ORDER_MARK.encode()):
            detail = f"{size} bytes, max_characters is {most}"
            return Reject(settings.name, file.source, None, RejectReason.TOO_LONG, detail)
        return file.path.read_bytes().decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        return Reject(settings.name, file.source, None, RejectReason.NOT_UTF8, str(error))
    except OSError as error:
        raise unreadable(settings.name, file, error) from None
