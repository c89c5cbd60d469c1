"""A function of one's own as a verifier."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.storage.errors import SettingsError


class FunctionVerifier(VerifierSettings):
    """The score that a Python function gives a Case: a number, or a number and a reason."""

    name: Literal["function"] = "function"
    call: str = Field(
        pattern=r"^[\w.]+:[\w.]+$", description="`module:function`, in the current directory or installed"
    )

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Call the function once a case. Raises SettingsError if it can't be imported, or gives no number."""
        function = self._loaded()
        return [self._judgement(function(case), case) for case in cases]

    def _loaded(self) -> Callable[[Case], Any]:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            return EntryPoint(self.name, self.call, "").load()
        except (ImportError, AttributeError) as error:
            raise SettingsError(
                f"generate.verifier.call {self.call}: can't import it ({error}); name a function as module:function"
            ) from error

    def _judgement(self, answer: Any, case: Case) -> Judgement:
        score, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
        try:
            return Judgement(score=float(score), reason=str(reason))
        except (TypeError, ValueError):
            raise SettingsError(
                f"generate.verifier.call {self.call}: expected a number, or a number and a reason, for trace "
                f"{case.doc_id}, found {answer!r}"
            ) from None
