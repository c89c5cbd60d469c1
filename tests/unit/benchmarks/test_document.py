"""The document of results says what the result files say."""

import json
from pathlib import Path

from benchmarks.document import with_results

RECORD = {
    "benchmark": "x",
    "title": "Ratios",
    "command": "python -m benchmarks.x",
    "commit": "0123456789abcdef",
    "modified": False,
    "hardware": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.0, "computes_in": "float32", "load_before": 0.1},
    "versions": {"python": "3.11"},
    "figures": {"ratio": 0.6, "other": 12},
    "reach": [{"key": "ratio", "kind": "at most", "bound": 0.5, "over": "other", "met": True}],
    "tables": [{"title": "Speeds", "columns": ["arm", "tokens/s"], "rows": [["mine", 1500.0]]}],
    "notes": ["A note."],
}
TEXT = "Before.\n\n<!-- results: x -->\nold\n<!-- end -->\n\nAfter.\n<!-- results: y -->\nkept\n<!-- end -->\n"


def test_results_replace_what_stood_between_the_marks_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(RECORD))
    text = with_results(TEXT, tmp_path)
    assert text.startswith("Before.\n")
    assert "old" not in text
    assert "kept" in text
    assert "| mine | 1,500 |" in text
    assert "| `ratio` | 0.6 | at most 0.5 x `other` | yes |" in text
    assert "`python -m benchmarks.x` at commit `0123456789ab`; A CPU, 2 cores" in text
    assert with_results(text, tmp_path) == text
