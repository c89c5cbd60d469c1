"""The page about corpora explains every reason that a reject may have."""

import re
from pathlib import Path

from logitlake.pipeline.corpus.reject_reason import RejectReason

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "corpora.md").read_text(encoding="utf-8")


def test_every_reason_of_a_reject_is_explained_once() -> None:
    table = PAGE.partition("## Rejects\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(RejectReason)
