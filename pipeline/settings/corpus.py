"""The section `corpora`: what all kinds of corpus share. A kind's own settings stand beside its reader."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.paths import PathText
from logitlake.pipeline.settings.registry import CORPORA


class CorpusSettings(SettingsByName):
    """One named source of documents."""

    registry: ClassVar = CORPORA
    name_field: ClassVar = "kind"

    # Whether `path` is on this machine, so that looking into it costs nothing.
    is_local: ClassVar[bool] = True

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    kind: str
    path: PathText = Field(description="file, directory, or (huggingface) dataset id or saved directory")
    glob: tuple[str, ...] = Field((), description="patterns below `path`; a leading `!` excludes; empty: by kind")
    follow_links: bool = Field(False, description="read links to files outside `path`; otherwise they are rejected")
    text_field: str = "text"
    prompt_field: str | None = Field(None, description="with completion_field: prompt/completion pairs")
    completion_field: str | None = None
    messages_field: str | None = Field(
        None, description="chats: lists of {role, content} or {from, value}, or JSON text"
    )
    tools_field: str | None = Field(
        "tools", description="with messages_field: the tools that a chat offers, if a record has the field; null: none"
    )
    min_characters: int = Field(1, ge=1)
    max_characters: int | None = Field(None, ge=1, description="longer documents are rejected; none: no bound")
    max_reject_share: float = Field(0.05, ge=0, le=1, description="a run stops when more than this share is rejected")
    reject_grace: int = Field(100, ge=0, description="documents to read before max_reject_share is checked")

    @abstractmethod
    def read(self) -> Iterator[Any]:
        """Every Document and Reject (logitlake.pipeline.corpus.document) in a fixed order, streamed.

        Raises CorpusError, at the first item or later, if the corpus can't be read.
        """

    def bind_lake(self, path: Path, catalog: str | None, data: str | None) -> None:
        """Tell a corpus that lies in the lake where the lake of the settings is; others need not know."""
        return

    @model_validator(mode="after")
    def _one_shape(self) -> "CorpusSettings":
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field go together: set both or neither")
        if self.messages_field and self.prompt_field:
            raise ValueError("a corpus holds chats (messages_field) or pairs (prompt_field), not both")
        return self
