"""Traces of a lake as documents: what `logitlake generate` wrote and a verifier kept."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from logitlake.pipeline.corpus.document import Document, Trace
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.pipeline.settings.paths import PathText
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeMissingError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.writing.traces import stored_traces

_THIS_LAKE = "this lake"
_AT_ONCE = 1000


class TracesCorpus(CorpusSettings):
    """Generated traces."""

    kind: Literal["traces"] = "traces"
    path: PathText = Field(_THIS_LAKE, description="directory of a lake")
    where: str = Field("is_kept", description="SQL condition over the view `traces`")

    is_local = False
    _lake: tuple[Path, str | None, str | None] | None = PrivateAttr(None)

    def bind_lake(self, path: Path, catalog: str | None, data: str | None) -> None:
        """The lake to read from unless `path` names another one."""
        self._lake = (path, catalog, data)

    def read(self) -> Iterator[Document]:
        """The traces in the order in which they were committed; a lake that is not there yet has none.

        Raises QueryError if `where` is not a condition over the view `traces`.
        """
        location = self._location()
        try:
            # Checked and read-only, because a condition is text of a person.
            rows = query(
                location,
                "SELECT doc_id FROM traces WHERE completion_ids <> [] AND "
                f"({self.where}\n) GROUP BY doc_id ORDER BY min(commit_number), doc_id",
            )
        except LakeMissingError:
            return
        doc_ids = rows["doc_id"].to_pylist()
        for begin in range(0, len(doc_ids), _AT_ONCE):
            yield from self._documents(location, doc_ids[begin : begin + _AT_ONCE])

    def _location(self) -> LakeLocation:
        if self.path != _THIS_LAKE:
            return LakeLocation.resolve(Path(self.path).expanduser(), None, None)
        path, catalog, data = self._lake or (Path("lake"), None, None)
        return LakeLocation.resolve(path, catalog, data)

    def _documents(self, location: LakeLocation, doc_ids: Sequence[str]) -> Iterator[Document]:
        with Lake.open(location) as lake:
            rows = {row["doc_id"]: row for row in stored_traces(lake, doc_ids).to_pylist()}
        for doc_id in doc_ids:
            # Forgotten meanwhile: left out.
            if (row := rows.get(doc_id)) is not None:
                yield self._document(row)

    def _document(self, row: dict[str, Any]) -> Document:
        trace = Trace(
            prompt_ids=tuple(row["prompt_ids"]),
            completion_ids=tuple(row["completion_ids"]),
            logprobs=tuple(row["logprobs"]),
            tokenizer_id=row["tokenizer_id"],
            writer=row["writer"],
            sampling=row["sampling"],
            seed=int(json.loads(row["sampling"]).get("seed", 0)),
            sample_number=row["sample_number"],
            score=row["score"],
            reason=row["reason"],
        )
        return Document(row["doc_id"], trace, self.name, f"{row['corpus']}/{row['source']}", row["line"])
