"""The plan holds what is missing, once each, in units of the set size."""

from collections.abc import Sequence
from typing import Any

import pytest

from logitlake.pipeline.corpus.document import Reject, RejectReason
from logitlake.pipeline.traces.planning import TracePlan
from logitlake.pipeline.traces.prompts import Prompt
from logitlake.storage.writing.traces import Sample


def prompt(number: int) -> Prompt:
    return Prompt(
        prompt_id=f"p{number}",
        doc_id=f"d{number}",
        text="",
        reference=None,
        ids=(1,) * (number + 1),
        corpus="c",
        source="s",
        line=number,
    )


REJECT = Reject("c", "s", 9, RejectReason.EMPTY, "")
PROMPTS = [prompt(0), prompt(1), REJECT, prompt(0), prompt(2), prompt(3), prompt(4)]
STORED = {
    ("p1", 0): Sample(doc_id="t10", is_judged=True),
    ("p1", 1): Sample(doc_id="t11", is_judged=True),
    ("p2", 0): Sample(doc_id="t20", is_judged=False),
    ("p3", 5): Sample(doc_id="t35", is_judged=False),
}


def plan(**changes: Any) -> TracePlan:
    def stored(prompt_ids: Sequence[str]) -> dict[tuple[str, int], Sample]:
        return {key: sample for key, sample in STORED.items() if key[0] in prompt_ids}

    options: dict[str, Any] = {"n_samples": 2, "unit_prompts": 2, "max_new_tokens": 10}
    return TracePlan(PROMPTS, stored=stored, forgotten=lambda ids: {"d4"} & set(ids), **options | changes)


def test_units_hold_what_is_missing_once_and_what_waits_for_a_verdict() -> None:
    made = plan()
    units = list(made)
    assert [[(r.prompt_id, r.number) for r in unit.requests] for unit in units] == [
        [("p0", 0), ("p0", 1), ("p2", 1)],
        [("p3", 0), ("p3", 1)],
    ]
    assert [unit.unjudged for unit in units] == [("t20",), ()]
    assert [len(unit.rejects) for unit in units] == [1, 0]
    assert all(r.prompt_ids == unit.prompts[r.prompt_id].ids for unit in units for r in unit.requests)
    summary = made.summary
    assert (summary.prompts, summary.repeated, summary.forgotten, summary.rejected) == (5, 1, 1, 1)
    assert (summary.samples_stored, summary.samples_new, summary.unjudged, summary.units) == (3, 5, 1, 2)
    assert summary.prompt_tokens == 2 * 1 + 3 + 2 * 4 and summary.tokens_at_most == summary.prompt_tokens + 50


@pytest.mark.parametrize(("most", "expected"), [(1, ["p0"]), (3, ["p0", "p2"]), (9, ["p0", "p2", "p3"])])
def test_only_the_first_prompts_count_if_their_number_is_bounded(most: int, expected: list[str]) -> None:
    assert [name for unit in plan(max_prompts=most) for name in unit.prompts] == expected
