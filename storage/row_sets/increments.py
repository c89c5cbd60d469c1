"""Rows that are new to a student, and the filter of a row set that mixes them with a replay of old rows.

The filter names commit numbers and document ids only, which never change once a row is committed: the row set can
always be read again.
"""

from dataclasses import dataclass

from logitlake.storage.lake.lake import Lake

_HASH_RANGE = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """Commits `after` < number <= `up_to` of one recipe are new to a student. Held-out documents are not counted."""

    after: int
    up_to: int
    new_documents: int
    new_tokens: int
    old_tokens: int


def increment_for(lake: Lake, student_id: str | None, recipe_id: str, *, where: str | None = None) -> Increment:
    """What is new under `recipe_id` to a student; for None, everything. `where` is a filter over `sequences`.

    Rows that an ancestor was trained on are not new: commits up to the last one of any ancestor's row set.
    """
    after = 0 if student_id is None else _seen_up_to(lake, student_id, recipe_id)
    condition = f"AND ({where})" if where else ""
    row = lake.row(
        f"""
        SELECT
            (SELECT max(commit_number) FROM commits WHERE recipe_id = $recipe) AS up_to,
            count(DISTINCT doc_id) FILTER (commit_number > $after) AS new_documents,
            coalesce(sum(n_tokens) FILTER (commit_number > $after), 0)::BIGINT AS new_tokens,
            coalesce(sum(n_tokens) FILTER (commit_number <= $after), 0)::BIGINT AS old_tokens
        FROM (SELECT * FROM sequences WHERE recipe_id = $recipe AND NOT held_out) AS sequences WHERE true {condition}
        """,
        {"recipe": recipe_id, "after": after},
    )
    return Increment(
        after=after,
        up_to=int(row["up_to"] or 0),
        new_documents=row["new_documents"],
        new_tokens=row["new_tokens"],
        old_tokens=row["old_tokens"],
    )


def has_held_out(lake: Lake, recipe_id: str) -> bool:
    """Whether the recipe has held-out documents; without them students can't be evaluated."""
    return bool(lake.row("SELECT 1 AS present FROM sequences WHERE recipe_id = ? AND held_out LIMIT 1", [recipe_id]))


def tokenizer_of(lake: Lake, student_id: str) -> str | None:
    """The tokenizer of the rows that a student was trained on last; None if their recipe is gone."""
    row = lake.row(
        """
        SELECT any_value(r.tokenizer_id) AS tokenizer
        FROM lineage AS l JOIN recipes AS r ON list_contains(l.recipe_ids, r.recipe_id)
        WHERE l.student_id = ? AND l.depth = 0
        """,
        [student_id],
    )
    return row.get("tokenizer")


def mixed_rows(increment: Increment, replay_share: float, *, where: str | None = None) -> str | None:
    """A filter for the new rows, and for old ones with about `replay_share` of all tokens; None: all rows.

    A hash of the document id, salted with the increment, chooses the old documents: other ones each night.
    """
    bound = _replay_bound(increment, replay_share)
    if not increment.after or bound >= _HASH_RANGE:
        return where
    new = f"commit_number > {increment.after}"
    if bound:
        new += f" OR ('0x' || substr(md5(doc_id || ':{increment.up_to}'), 1, 8))::BIGINT < {bound}"
    return f"({where}) AND ({new})" if where else new


def _replay_bound(increment: Increment, share: float) -> int:
    """Old documents whose hash of 32 bits is below this are replayed."""
    replay_tokens = share / (1 - share) * increment.new_tokens
    return min(_HASH_RANGE, round(_HASH_RANGE * replay_tokens / increment.old_tokens)) if increment.old_tokens else 0


def _seen_up_to(lake: Lake, student_id: str, recipe_id: str) -> int:
    row = lake.row(
        "SELECT max(up_to_commit) AS up_to FROM lineage WHERE student_id = ? AND list_contains(recipe_ids, ?)",
        [student_id, recipe_id],
    )
    return int(row["up_to"] or 0)
