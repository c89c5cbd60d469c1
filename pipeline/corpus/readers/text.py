"""Text and code: one file, one document."""

import os
from collections.abc import Iterator
from typing import Literal

from logitlake.pipeline.corpus.document import Document, Reject, RejectReason, document_builder
from logitlake.pipeline.corpus.files import CorpusFile, read_files
from logitlake.pipeline.corpus.streams import MAX_LINE_BYTES, open_regular
from logitlake.pipeline.settings.corpus import CorpusSettings

_DEFAULT_GLOB = ("**/*",)
_MAX_BYTES_PER_CHARACTER = 4
_BYTE_ORDER_MARK = "\ufeff"


class TextCorpus(CorpusSettings):
    """Files below `path`, each one document."""

    kind: Literal["text"] = "text"

    def read(self) -> Iterator[Document | Reject]:
        """The documents and rejects of a tree of files; `line` is None.

        The text is the file's, newlines as they are, without a byte order mark. Longer files than a line of JSON may be
        are rejects. Raises CorpusError if the corpus or one of its files can't be opened.
        """
        shape = {"prompt_field": None, "completion_field": None, "messages_field": None}
        build = document_builder(self.model_copy(update=shape))

        def read_file(file: CorpusFile) -> Iterator[Document | Reject]:
            content = _read_file(self, file)
            if isinstance(content, Reject):
                yield content
            else:
                yield build({self.text_field: content}, file.source, None)

        return read_files(self, _DEFAULT_GLOB, read_file)


def _read_file(settings: CorpusSettings, file: CorpusFile) -> str | Reject:
    most = settings.max_characters
    limit, bound = MAX_LINE_BYTES, f"at most {MAX_LINE_BYTES} are read"
    if most is not None and most * _MAX_BYTES_PER_CHARACTER < limit:
        limit, bound = most * _MAX_BYTES_PER_CHARACTER + len(_BYTE_ORDER_MARK.encode()), f"max_characters is {most}"
    with open_regular(file.path) as stream:
        # The size may be wrong, or change: what is read counts.
        content = stream.read(limit + 1)
        size = max(os.fstat(stream.fileno()).st_size, len(content))
    if len(content) > limit:
        return Reject(settings.name, file.source, None, RejectReason.TOO_LONG, f"{size} bytes, {bound}")
    try:
        return content.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        return Reject(settings.name, file.source, None, RejectReason.NOT_UTF8, str(error))
