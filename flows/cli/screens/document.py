"""`logitlake show document`: its facts under each recipe, and its text coloured by the teacher's surprise."""

import sys
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.text import Text

from logitlake.flows.terminal.output import Format, console, print_record, print_rows, say
from logitlake.flows.terminal.screen import Sections, print_screen
from logitlake.flows.terminal.visible import visible
from logitlake.pipeline.tokens.token_text import decoded
from logitlake.storage.answers.details import document_facts, document_tokens, find_document
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake

_TOKENS_FOR_A_PERSON = 1000


@dataclass(frozen=True, slots=True)
class _Level:
    """The style of tokens with a log-probability above `above`."""

    above: float
    style: str
    words: str


# Black on light and white on dark: readable in every colour scheme, and ordered by lightness for colour-blind
# readers. The bounds are probabilities 1/2, 1/10, 1/100 and 1/1000.
_LEVELS = (
    _Level(-0.693, "", "over 1/2"),
    _Level(-2.303, "#000000 on #ffeda0", "under 1/2"),
    _Level(-4.605, "#000000 on #feb24c", "under 1/10"),
    _Level(-6.908, "#000000 on #f97b4a", "1/100"),
    _Level(-float("inf"), "#ffffff on #b10026", "1/1000"),
)
_NO_TARGET = "dim"
_SHORTER = {"mean_entropy": "entropy", "mean_surprise": "surprise", "held_out": "held"}


def show_document(lake: Lake, name: str, form: Format, *, recipe: str | None, limit: int | None) -> None:
    """A document by the beginning of its id or by its source. CSV contains only the tokens."""
    doc_id = find_document(lake, name)
    facts = document_facts(lake, doc_id)
    recipe_id = _recipe_of(facts, recipe)
    tokens = token_rows(document_tokens(lake, doc_id, recipe_id))
    shown = tokens[: limit or (_TOKENS_FOR_A_PERSON if form is Format.TABLE else len(tokens))]
    if form is Format.CSV:
        print_rows(shown, form)
    elif form is Format.JSON:
        print_record({**facts, "text_of_recipe_id": recipe_id, "tokens": shown}, form)
    else:
        _print(facts, recipe_id, shown)
    if len(tokens) > len(shown):
        say(f"{len(tokens) - len(shown):,} more tokens: raise --limit")


def token_rows(tokens: pa.Table) -> list[dict[str, Any]]:
    """Tokens (storage.answers.details) with their `text`; all texts joined are the document."""
    rows: list[dict[str, Any]] = tokens.to_pylist()
    texts = decoded([row["token"] or "" for row in rows])
    return [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]


def coloured(rows: list[dict[str, Any]]) -> Text:
    """The coloured text. A character made of several tokens gets the sum of their log-probs."""
    text, waiting = Text(), []
    for row in rows:
        waiting.append(row["logprob"])
        if row["text"]:
            text.append(visible(row["text"]), style=_style(waiting))
            waiting = []
    return text


def _style(logprobs: list[float | None]) -> str:
    present = [logprob for logprob in logprobs if logprob is not None]
    if not present:
        return _NO_TARGET
    return next((level.style for level in _LEVELS if sum(present) > level.above), _LEVELS[-1].style)


def _legend() -> Text:
    """The legend of the colours, on one line."""
    legend = Text("The teacher gave: ")
    for level in _LEVELS:
        legend.append(f" {level.words} ", style=level.style)
    legend.append(" ")
    legend.append("no target", style=_NO_TARGET)
    return legend


def _recipe_of(facts: dict[str, Any], beginning: str | None) -> str:
    """The newest recipe that cached the document, or the named one."""
    matches = [row["recipe_id"] for row in facts["recipes"] if row["recipe_id"].startswith(beginning or "")]
    if not matches or (beginning and len(matches) > 1):
        have = ", ".join(row["recipe_id"][:12] for row in facts["recipes"])
        raise LakeError(
            f"document {facts['doc_id'][:12]}: expected one recipe that starts with {beginning!r}, found {have}"
        )
    return str(matches[0])


def _print(facts: dict[str, Any], recipe_id: str, rows: list[dict[str, Any]]) -> None:
    sources = [f"{s['corpus']}/{s['source']}" + (f":{s['line']}" if s["line"] else "") for s in facts["sources"]]
    more = f" and {len(sources) - 5:,} more" if len(sources) > 5 else ""
    sections: Sections = {
        "Document": {"id": facts["doc_id"], "sources": ", ".join(sources[:5]) + more},
        "Under each recipe (mean entropy and surprise in nats per target)": [
            {_SHORTER.get(name, name): value for name, value in row.items() if name != "sequences"}
            for row in facts["recipes"]
        ],
    }
    print_screen(sections, Format.TABLE)
    screen = console()
    screen.print()
    screen.print(Text(f"Text under recipe {recipe_id[:12]}", style="bold"))
    if sys.stdout.isatty() and not screen.no_color:
        screen.print(_legend())
    # The terminal breaks long lines itself, so that the text is not changed.
    screen.print(coloured(rows), soft_wrap=True)
