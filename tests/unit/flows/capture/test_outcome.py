"""What a capture says when it is done: true also where everything was rejected or a cap came first."""

from typing import Any

import pytest

from logitlake.flows.cli.commands.capture import outcome
from logitlake.flows.reports import CaptureReport


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"documents_seen": 3, "documents_known": 2, "documents_repeated": 1}, ["nothing to do"]),
        ({"documents_rejected": 4}, ["no readable document", "4 rejected: `logitlake show rejects`"]),
        ({"documents_seen": 3, "documents_known": 1, "stopped": "max_tokens 5 is reached"}, ["stopped: max_tokens 5"]),
        ({"documents_seen": 3, "documents_known": 3, "documents_rejected": 1}, ["nothing to do", "1 rejected"]),
        ({"documents_seen": 3, "n_units": 1}, []),
    ],
)
def test_a_capture_says_why_it_captured_no_more(counts: dict[str, Any], said: list[str]) -> None:
    lines = outcome(CaptureReport(run_id="r", recipe_id="i", teacher="t", **counts))
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
