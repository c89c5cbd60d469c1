"""Scores from a file: what a reward model, or people, said of the traces that are in the lake already.

The traces without a score wait: the next run asks again, and writes no completion anew. The file's content is part of
the verifier's id, not its path: other scores in the same file are another verifier.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from pydantic import Field

from logitlake.pipeline.settings.paths import PathText
from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import digest


class RewardVerifier(VerifierSettings):
    """The score that a file has for a trace."""

    name: Literal["reward"] = "reward"
    version: ClassVar[int] = 2

    file: PathText = Field(description="Parquet, CSV or JSON Lines with a row for each trace")
    id_column: str = Field("doc_id", description="column with the id of the trace")
    score_column: str = Field("reward", description="column with the score")

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Look each trace up. Raises SettingsError if the file can't be read or lacks a column."""
        _, scores = self._content
        return [
            Judgement(score=score, reason=self.score_column) if (score := scores.get(case.doc_id)) is not None else None
            for case in cases
        ]

    def record(self) -> dict[str, object]:
        """Raises SettingsError if the file can't be read or lacks a column."""
        settings = super().record()
        del settings["file"]
        return {**settings, "file_hash": self._content[0]}

    @cached_property
    def _content(self) -> tuple[str, dict[str, float]]:
        """Hash and scores of the file, read once: the scores are those that the hash stands for."""
        path = Path(self.file).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"generate.verifier.file {path}: can't be read ({error})") from None
        return digest(b"rewards", content), self._scores(_read(path, content))

    def _scores(self, table: pa.Table) -> dict[str, float]:
        missing = {self.id_column, self.score_column} - set(table.column_names)
        if missing:
            raise SettingsError(
                f"generate.verifier.file {self.file}: expected columns {self.id_column} and {self.score_column}, found "
                f"{', '.join(table.column_names) or 'none'}"
            )
        try:
            values = table[self.score_column].cast(pa.float64()).to_pylist()
        except pa.ArrowException as error:
            raise SettingsError(
                f"generate.verifier.file {self.file}: expected numbers in {self.score_column} ({error})"
            ) from None
        ids = table[self.id_column].to_pylist()
        pairs = zip(ids, values, strict=True)
        return {doc_id: value for doc_id, value in pairs if value is not None and math.isfinite(value)}


def _read(path: Path, content: bytes) -> pa.Table:
    file = pa.BufferReader(content)
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(file)
        return pyarrow.csv.read_csv(file) if path.suffix == ".csv" else pyarrow.json.read_json(file)
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(
            f"generate.verifier.file {path}: can't be read as Parquet, CSV or JSON Lines ({error})"
        ) from None
