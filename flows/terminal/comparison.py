"""A capture's estimate (see logitlake.flows.capture.estimate) beside the measured values."""

from collections.abc import Mapping, Sequence
from typing import Any

from logitlake.flows.terminal.output import readable
from logitlake.flows.terminal.quantities import change_text, named_text


def compared(expected: Mapping[str, Any], took: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of expected and measured values; empty for a run without estimate or without computed tokens.

    `expected` is what `Rates.as_record` gives, with `tokens` where the whole plan was counted; `took` has `n_tokens`,
    `n_bytes`, `teacher_seconds`, and `seconds` of the whole run if known. Hours, bytes and cost are those of
    the tokens that were computed: a run that was stopped is compared by what it did. The cost is that of the whole run,
    loading and waiting included.
    """
    n_tokens = took["n_tokens"]
    if not expected or not n_tokens:
        return []
    hours = n_tokens / expected["tokens_per_second"] / 3600
    pairs: dict[str, tuple[float | None, float | None]] = {
        "tokens": (expected.get("tokens"), n_tokens),
        "teacher_hours": (hours, took["teacher_seconds"] / 3600),
        "tokens_per_second": (expected["tokens_per_second"], n_tokens / (took["teacher_seconds"] or float("nan"))),
        "bytes_on_disk": (round(n_tokens * expected["bytes_per_token"]), took["n_bytes"]),
        "bytes_per_token": (expected["bytes_per_token"], took["n_bytes"] / n_tokens),
    }
    if (price := expected.get("price_per_hour")) is not None:
        whole = took.get("seconds")
        pairs["cost"] = (hours * price, None if whole is None else whole / 3600 * price)
    return [
        {"quantity": name, "expected": expectation, "took": measured, "ratio": measured / expectation}
        for name, (expectation, measured) in pairs.items()
        if expectation and measured is not None
    ]


def comparison_rows(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `compared` for a person, with units, and the difference in percent."""
    return [
        {
            "of": row["quantity"].replace("_per_second", "/s").replace("_per_", "/").replace("_", " "),
            "expected": _text(row["quantity"], row["expected"]),
            "took": _text(row["quantity"], row["took"]),
            "difference": change_text(row["expected"], row["took"]),
        }
        for row in compared
    ]


def _text(name: str, value: float) -> str:
    return named_text(name, value) or readable(value)
