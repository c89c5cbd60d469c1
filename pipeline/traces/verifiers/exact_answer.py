r"""Compares the final answer of a completion with that of the reference.

The answer is looked for in both texts in the same order: the last `\boxed{…}`, the line behind the last `####`, the
last number, the whole text.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import Field

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.pipeline.traces.verifiers.reference import reference_of

AnswerPlace = Literal["auto", "boxed", "hashes", "number", "last_line", "whole"]

_BOXED = re.compile(r"\\boxed\s*\{")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|[-+]?\.\d+")
_NUMERAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:/\d+)?")
_MOST_DIGITS = 400
# Of TeX: what leaves no trace, commas that it writes without a space, and spaces. `\,` also stands between thousands.
_INVISIBLE = re.compile(r"\\?\$|\\!|\\text\s*|\\left|\\right")
_TEX_COMMA = re.compile(r"\{,\}|,\\,")
_TEX_SPACE = re.compile(r"\\[,;:]")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:(?:,\d{3})+|(?:\\,\d{3})+)(?!\\?,?\d)")


class ExactAnswer(VerifierSettings):
    """Score 1 if the final answer is that of the reference, else 0; numbers are compared by value."""

    name: Literal["exact_answer"] = "exact_answer"
    version: ClassVar[int] = 2
    needs_reference: ClassVar[bool] = True

    answer: AnswerPlace = Field("auto", description="where the answer stands; auto: \\boxed, ####, number, whole text")

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Raises SettingsError for a case without a reference."""
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Judgement:
        expected = final_answer(reference_of(case, self.name), self.answer)
        found = final_answer(case.completion, self.answer)
        if found is None:
            return Judgement(score=0.0, reason="no answer")
        same = expected is not None and same_answer(found, expected)
        return Judgement(score=float(same), reason="right answer" if same else "another answer")


def final_answer(text: str, place: AnswerPlace) -> str | None:
    """The answer in a text; None if there is none at that place."""
    if place == "auto":
        for candidate in ("boxed", "hashes", "number", "whole"):
            if (answer := final_answer(text, candidate)) is not None:
                return answer
        return None
    if place == "boxed":
        return _last_boxed(text)
    if place == "hashes":
        behind = text.rpartition("####")[2].strip() if "####" in text else ""
        return behind.splitlines()[0].strip() if behind else None
    if place == "number":
        numbers = _NUMBER.findall(text)
        return numbers[-1] if numbers else None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if place == "last_line":
        return lines[-1] if lines else None
    return text.strip() or None


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are equal: as numbers if both are numbers, else as text.

    Spaces and dollar signs do not count, nor does a comma between thousands; but what stands between two digits does.
    """
    texts_a, texts_b = _plain(a), _plain(b)
    if any(text_a == text_b for text_a, text_b in zip(texts_a, texts_b, strict=True)):
        return True
    value_a, value_b = _value(texts_a[1]), _value(texts_b[1])
    return value_a is not None and value_a == value_b


def _plain(text: str) -> tuple[str, str]:
    """An answer with all of its commas, as (100,200) may be a pair; and without those between thousands."""
    text = _TEX_COMMA.sub(",", _INVISIBLE.sub("", text))
    return _without_spaces(text), _without_spaces(_THOUSANDS.sub(lambda found: re.sub(r"\\?,", "", found[0]), text))


def _without_spaces(text: str) -> str:
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(_TEX_SPACE.sub(" ", text).split())).rstrip(".").casefold()


def _value(text: str) -> Fraction | None:
    if len(text) > _MOST_DIGITS or not _NUMERAL.fullmatch(text):
        return None
    try:
        return Fraction(text) if "/" not in text else Fraction(text.partition("/")[0]) / int(text.partition("/")[2])
    except (ValueError, ZeroDivisionError):
        return None


def _last_boxed(text: str) -> str | None:
    starts = [match.end() for match in _BOXED.finditer(text)]
    if not starts:
        return None
    depth = 1
    for at in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[starts[-1] : at].strip() or None
    return None
