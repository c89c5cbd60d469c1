"""The section `generate.verifier`: what all verifiers share. A verifier's own settings stand beside it."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.registry import VERIFIERS
from logitlake.storage.identity import canonical_json, digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A trace to judge. `reference` is the completion of a pair or the last answer of a chat; None: there is none."""

    doc_id: str
    prompt: str
    completion: str
    reference: str | None
    finished: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A score, such as 1 for right and 0 for wrong, and the reason in a few words."""

    score: float
    reason: str = ""


class VerifierSettings(SettingsByName):
    """What decides which traces are kept."""

    registry: ClassVar = VERIFIERS
    name_field: ClassVar = "name"
    # Raise it when the same settings would judge otherwise than before: every trace is then judged anew.
    version: ClassVar[int] = 1
    # Settings that change no judgement: no part of the id.
    only_how: ClassVar[frozenset[str]] = frozenset()
    # Whether each prompt must have a reference: this is checked before anything is written.
    needs_reference: ClassVar[bool] = False

    name: str = "none"
    min_score: float | None = Field(
        1.0, description="a trace with a lower score is dropped; none: all are kept, with their score"
    )
    only_finished: bool = Field(False, description="drop traces that were cut at max_new_tokens")

    @abstractmethod
    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """A judgement on each case; None where there is none yet, so that a later run asks again.

        Raises SettingsError if a case lacks what the verifier needs, such as a reference.
        """

    def keeps(self, case: Case, judgement: Judgement) -> bool:
        """Whether a trace with this judgement is kept."""
        if self.only_finished and not case.finished:
            return False
        return self.min_score is None or judgement.score >= self.min_score

    def record(self) -> dict[str, object]:
        """What decides a judgement, JSON-able, and the version."""
        return {**self.model_dump(mode="json", exclude=set(self.only_how)), "version": self.version}

    @property
    def verifier_id(self) -> str:
        """Hash of the settings and the version: a trace is judged once under each."""
        return digest(b"verifier", canonical_json(self.record()))
