"""No verification: every trace is kept."""

from collections.abc import Sequence
from typing import Literal

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings


class NoVerifier(VerifierSettings):
    """Keeps every trace; with `only_finished` those that the writer ended itself."""

    name: Literal["none"] = "none"

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """1 for each."""
        return [Judgement(score=1.0, reason="not verified")] * len(cases)
