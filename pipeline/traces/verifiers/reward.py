"""Scores from a file: what a reward model, or people, said of the traces that are in the lake already.

The traces without a score wait: the next run asks again, and writes no completion anew.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from pydantic import Field

from logitlake.pipeline.settings.paths import PathText
from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.storage.errors import SettingsError


class RewardVerifier(VerifierSettings):
    """The score that a file has for a trace."""

    name: Literal["reward"] = "reward"
    file: PathText = Field(description="Parquet, CSV or JSON Lines with a row for each trace")
    id_column: str = Field("doc_id", description="column with the id of the trace")
    score_column: str = Field("reward", description="column with the score")

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Look each trace up. Raises SettingsError if the file can't be read or lacks a column."""
        scores = self._scores()
        return [
            Judgement(score=score, reason=self.score_column) if (score := scores.get(case.doc_id)) is not None else None
            for case in cases
        ]

    def _scores(self) -> dict[str, float]:
        table = _read(Path(self.file).expanduser())
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


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.json.read_json(path)
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(
            f"generate.verifier.file {path}: can't be read as Parquet, CSV or JSON Lines ({error})"
        ) from None
