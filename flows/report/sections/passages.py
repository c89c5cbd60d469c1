"""The most instructive passages, token by token, with the tokens that the teacher expected."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from logitlake.flows.report.blocks import Section
from logitlake.flows.report.findings import Findings, about_the_sample
from logitlake.flows.report.text import passage_text, token_text
from logitlake.pipeline.tokens.token_text import decoded
from logitlake.storage.answers.report.passages import SPAN, Passage, PassageToken

# Surprise in nats from which a token has the next stronger colour.
SHADES = (1.0, 2.0, 4.0, 6.0, 8.0)


def passages_section(findings: Findings) -> Section | None:
    """Coloured text; each token with the teacher's candidates."""
    if not findings.passages:
        return None
    lead = (
        f"Passages where the teacher was certain and wrong. A passage has {SPAN} tokens; the rank is the sum of "
        "surprise minus entropy. Text that can't be predicted, such as random digits, has high entropy too and ranks "
        "low. The beginnings of documents, where the teacher has little context, come last. "
        f"{about_the_sample(findings.sample)}"
    )
    shown = [_passage(findings, passage) for passage in findings.passages]
    return Section(
        key="passages",
        title="The most instructive passages",
        lead=lead,
        template="passages.html.j2",
        more={"passages": shown, "shades": [f"{low:g}" for low in SHADES]},
    )


def _passage(findings: Findings, passage: Passage) -> dict[str, Any]:
    texts = partial(_text, findings, passage)
    n_lead = len(passage.lead_ids)
    shares = decoded([texts(token_id) for token_id in (*passage.lead_ids, *(t.token_id for t in passage.tokens))])
    return {
        "recipe": passage.recipe_id,
        "recipe_name": findings.names[passage.recipe_id],
        "corpus": passage.corpus,
        "source": passage.source,
        "position": passage.position,
        "score": passage.score,
        "lead": passage_text("".join(shares[:n_lead])),
        "units": [_unit(texts, tokens, text) for tokens, text in _units(passage.tokens, shares[n_lead:])],
    }


def _units(tokens: Sequence[PassageToken], shares: Sequence[str]) -> list[tuple[list[PassageToken], str]]:
    """Tokens with the text they make: those that are parts of one character stand together."""
    units: list[tuple[list[PassageToken], str]] = []
    waiting: list[PassageToken] = []
    for number, (token, share) in enumerate(zip(tokens, shares, strict=True), start=1):
        waiting.append(token)
        if share or number == len(tokens):
            units.append((waiting, share))
            waiting = []
    return units


def _unit(texts: Callable[[int], str], tokens: list[PassageToken], text: str) -> dict[str, Any]:
    surprises = [token.surprise for token in tokens if token.surprise is not None]
    surprise = sum(surprises) if surprises else None
    first = tokens[0]
    return {
        "text": passage_text(text),
        "name": token_text(text),
        "surprise": surprise,
        "entropy": first.entropy,
        "shade": 0 if surprise is None else sum(surprise >= low for low in SHADES),
        "pieces": [token_text(texts(token.token_id)) for token in tokens] if len(tokens) > 1 else [],
        "heads": [
            {"text": token_text(texts(token_id)), "probability": probability, "real": token_id == first.token_id}
            for token_id, probability in first.heads
        ],
        "more_heads": first.n_heads - len(first.heads),
        "n_tails": first.n_tails,
        "residual_mass": first.residual_mass,
    }


def _text(findings: Findings, passage: Passage, token_id: int) -> str:
    return findings.token_texts.get((passage.tokenizer_id, token_id), "")
