"""The passages that surprised the teacher most beyond what it expected, with all it thought of each of their tokens.

A passage is one of the stretches of SPAN labels that a sequence falls into. Its score is the sum of surprise minus
entropy: text that nobody could foresee (digests, tables of numbers) is expected to surprise and scores about nothing,
what a teacher was sure of and wrong about scores high. The beginning of a sequence, where a teacher knows little yet,
comes after all others. Recipes whose engine gives no entropy have no passages. Needs the temporary tables of
`logitlake.storage.answers.report.sample`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logitlake.storage.lake.lake import Lake

SPAN = 48
LEAD = 24
HEADS = 6
_SPARE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageToken:
    """A real token, and what the teacher thought before it came. `heads` are (id, probability), likeliest first.

    `n_heads` counts those that are not listed too. Entropy and surprise are None where the position has no target.
    """

    token_id: int
    entropy: float | None
    surprise: float | None
    heads: list[tuple[int, float]]
    n_heads: int
    n_tails: int
    residual_mass: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Where a passage is, its score in nats, the token ids before it, and its tokens."""

    recipe_id: str
    tokenizer_id: str
    doc_id: str
    corpus: str
    source: str
    position: int
    score: float
    lead_ids: list[int]
    tokens: list[PassageToken]


def passages(lake: Lake, *, total: int = 16) -> list[Passage]:
    """About `total` passages, as many of each recipe and corpus, two at least; one a document, and no text twice."""
    lake.connection.execute(
        f"CREATE OR REPLACE TEMP TABLE chosen AS {_CHOSEN}", {"span": SPAN, "total": total, "spare": _SPARE}
    )
    units = lake.sql("SELECT DISTINCT unit_id FROM chosen")["unit_id"].to_pylist()
    rows = lake.sql(_READ, {"units": units, "lead": LEAD}).to_pylist()
    result: list[Passage] = []
    taken: set[tuple[str, str, tuple[int, ...]]] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        group = (row["recipe_id"], row["corpus"])
        text = (*group, tuple(row["token_ids"]))
        if counts[group] < row["each"] and text not in taken:
            taken.add(text)
            counts[group] += 1
            result.append(_passage(row))
    return result


def token_texts(lake: Lake, passages: Sequence[Passage]) -> dict[tuple[str, int], str]:
    """The text of every token that passages name, by tokenizer and id, as the vocabulary has it."""
    texts: dict[tuple[str, int], str] = {}
    for tokenizer_id in sorted({passage.tokenizer_id for passage in passages}):
        ids = {token_id for passage in passages if passage.tokenizer_id == tokenizer_id for token_id in _named(passage)}
        rows = lake.sql(
            "SELECT token_id, token FROM vocabulary WHERE tokenizer_id = ? AND list_contains(?, token_id)",
            [tokenizer_id, sorted(ids)],
        )
        texts |= {(tokenizer_id, row["token_id"]): row["token"] for row in rows.to_pylist()}
    return texts


def _named(passage: Passage) -> set[int]:
    heads = {token_id for token in passage.tokens for token_id, _ in token.heads}
    return heads | {token.token_id for token in passage.tokens} | set(passage.lead_ids)


# Where groups are many, each has two passages: the page then has more than `total`, but no more than 4 times as many.
_CHOSEN = """
WITH spans AS (
    SELECT sequence, (label - 1) // $span AS span, sum(surprise - entropy) AS score
    FROM sampled WHERE entropy IS NOT NULL GROUP BY ALL
), best AS (
    SELECT DISTINCT ON (recipe_id, doc_id) s.*, span, score
    FROM spans JOIN sampled_sequences AS s USING (sequence)
    ORDER BY recipe_id, doc_id, span > 0 DESC, score DESC, window_index, span
), groups AS (
    SELECT greatest(2, $total // greatest(count(DISTINCT (recipe_id, corpus)), 1)) AS each FROM best
)
SELECT
    recipe_id, tokenizer_id, unit_id, doc_id, corpus, window_index, score, each, span, span * $span + 1 AS begins,
    least(span * $span + $span, n_tokens - 1) AS ends
FROM best JOIN (SELECT recipe_id, tokenizer_id FROM recipes) USING (recipe_id), groups
QUALIFY row_number() OVER (PARTITION BY recipe_id, corpus ORDER BY span > 0 DESC, score DESC, doc_id) <= each * $spare
    AND dense_rank() OVER (ORDER BY recipe_id, corpus) <= 2 * $total
"""

# The units by name: their shards are opened, and no others.
_READ = """
SELECT
    recipe_id, tokenizer_id, doc_id, corpus, source, score, each, levels, start + begins AS position,
    input_ids[greatest(begins - $lead + 1, 1):begins] AS lead_ids, input_ids[begins + 1:ends + 1] AS token_ids,
    target_ids[begins:ends] AS target_ids, head_codes[begins:ends] AS head_codes,
    entropy_codes[begins:ends] AS entropy_codes, nll_codes[begins:ends] AS nll_codes,
    coalesce(nll_steps_per_nat, 32) AS nll_steps_per_nat
FROM store.sequences
JOIN (SELECT recipe_id, tokenizer_id, unit_id, doc_id, window_index, score, each, span, begins, ends FROM chosen)
    USING (recipe_id, unit_id, doc_id, window_index)
WHERE list_contains($units, unit_id)
ORDER BY recipe_id, corpus, span > 0 DESC, score DESC, doc_id
"""


def _passage(row: dict[str, Any]) -> Passage:
    lists = zip(*(row[n] for n in ("token_ids", "target_ids", "head_codes", "entropy_codes", "nll_codes")), strict=True)
    names = ("recipe_id", "tokenizer_id", "doc_id", "corpus", "source", "position", "score", "lead_ids")
    return Passage(
        **{name: row[name] for name in names},
        tokens=[_token(row["levels"], row["nll_steps_per_nat"], *values) for values in lists],
    )


def _token(
    levels: int,
    nll_steps_per_nat: int,
    token_id: int,
    ids: list[int],
    codes: list[int],
    entropy: int | None,
    nll: int | None,
) -> PassageToken:
    return PassageToken(
        token_id=token_id,
        entropy=None if entropy is None else entropy / 32,
        surprise=None if nll is None else nll / nll_steps_per_nat,
        heads=[(head, code / levels) for head, code in zip(ids, codes, strict=False)][:HEADS],
        n_heads=len(codes),
        n_tails=len(ids) - len(codes),
        residual_mass=1 - sum(codes) / levels,
    )
