"""Keeps completions that match a regular expression, or that do not."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings


class RegexVerifier(VerifierSettings):
    """Score 1 if the pattern is found in the completion, else 0."""

    name: Literal["regex"] = "regex"
    pattern: str = Field(description="Python regular expression; (?i) and the like at its beginning are flags")
    absent: bool = Field(False, description="score 1 if the pattern is not found")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"expected a regular expression ({error})") from None
        return pattern

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Search each completion."""
        pattern = re.compile(self.pattern)
        return [self._judgement(pattern.search(case.completion) is not None) for case in cases]

    def _judgement(self, is_found: bool) -> Judgement:
        reason = "the pattern is there" if is_found else "the pattern is not there"
        return Judgement(score=float(is_found is not self.absent), reason=reason)
