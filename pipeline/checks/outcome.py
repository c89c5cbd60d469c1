"""What one comparison found. Loads no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from logitlake.pipeline.corpus.document import Document

Result = Literal["pass", "differs", "not compared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One check: `compared` things of `unit`, the largest `difference` in `measure`, and the `bound` that it may reach.

    `detail` names the document of the largest difference, or says why nothing was compared.
    """

    check: str
    result: Result
    compared: int
    unit: str
    difference: float | None
    bound: float | None
    measure: str
    detail: str

    def as_record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "check": self.check,
            "result": self.result,
            "compared": self.compared,
            "unit": self.unit,
            "difference": self.difference,
            "bound": self.bound,
            "measure": self.measure,
            "detail": self.detail,
        }


def judged(
    check: str, *, compared: int, unit: str, difference: float, bound: float, measure: str, detail: str = ""
) -> Outcome:
    """The outcome of a difference: it passes if it is at most `bound`. NaN differs. `detail` is kept if it differs."""
    if not compared:
        return not_compared(check, unit, detail or f"there are no {unit} to compare")
    passes = difference <= bound
    return Outcome(
        check=check,
        result="pass" if passes else "differs",
        compared=compared,
        unit=unit,
        difference=difference,
        bound=bound,
        measure=measure,
        detail="" if passes else detail,
    )


def not_compared(check: str, unit: str, why: str) -> Outcome:
    """The outcome of a check that could not be made."""
    return Outcome(
        check=check,
        result="not compared",
        compared=0,
        unit=unit,
        difference=None,
        bound=None,
        measure="",
        detail=why,
    )


def joined(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome for each check: the worst of its groups, with the number of all that was compared.

    A check that could not be made in a group counts only where it was made in none.
    """
    return [
        _worst([each for each in outcomes if each.check == check]) for check in dict.fromkeys(o.check for o in outcomes)
    ]


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    worst = max(outcomes, key=_badness)
    return replace(worst, compared=sum(outcome.compared for outcome in outcomes))


def _badness(outcome: Outcome) -> tuple[int, float]:
    difference = outcome.difference or 0.0
    order: tuple[Result, ...] = ("not compared", "pass", "differs")
    return order.index(outcome.result), math.inf if math.isnan(difference) else difference


def name_of(document: Document) -> str:
    """Corpus, source and line, such as `notes/march.jsonl:12`."""
    line = "" if document.line is None else f":{document.line}"
    return f"{document.corpus}/{document.source}{line}"
