"""What `logitlake plan` says of documents that can't be used, also past the limit at which a capture stops."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import CorpusError
from tests.tiny_lake import capture_all, text_of

EXPECTED = [
    ("bad", "missing_field", 1500, "b.jsonl", 1),
    ("bad", "bad_json", 700, "b.jsonl", 3),
    ("bad", "too_short", 1, "b.jsonl", 4),
    ("good", "bad_json", 1, "g.jsonl", 2),
]


@pytest.fixture
def mixed(raw_config: dict[str, Any], tmp_path: Path) -> Path:
    """Settings of a corpus of which hardly anything can be used, and of one with a line that is cut off."""
    text = orjson.dumps({"text": text_of(1)})
    bad = [b'{"words": 1}', text, b"{no", b'{"text": "c"}', *[b'{"words": 1}'] * 1499, *[b"{no"] * 699]
    good = [orjson.dumps({"text": text_of(2)}), orjson.dumps({"text": text_of(3)})[:-3]]
    corpora = []
    for name, lines in (("bad", bad), ("good", good)):
        path = tmp_path / f"{name[0]}.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        corpora.append({"name": name, "kind": "jsonl", "path": str(path)})
    tokenization = {**raw_config["tokenization"], "eos": False}
    file = tmp_path / "mixed.yaml"
    file.write_bytes(orjson.dumps({**raw_config, "corpora": corpora, "tokenization": tokenization}))
    return file


def test_every_reject_is_counted_by_corpus_and_reason_past_the_limit_of_a_capture(cli: Any, mixed: Path) -> None:
    results = [cli("plan", "--config", mixed, "--format", "json") for _ in range(2)]
    assert [result.exit_code for result in results] == [3, 3]
    plan = json.loads(results[0].stdout)
    assert [tuple(row[k] for k in ("corpus", "reason", "rejects", "source", "line")) for row in plan["rejects"]] == (
        EXPECTED
    )
    assert plan["rejects"][-1]["detail"] == "the line is cut off: it ends inside a JSON value"
    assert (plan["documents_rejected"], plan["documents_new"]) == (2202, 2)
    assert results[1].stdout == results[0].stdout


def test_a_plan_ends_with_the_words_of_the_capture_that_would_stop(cli: Any, mixed: Path) -> None:
    result = cli("plan", "--config", mixed)
    table = result.stdout.partition("Rejects")[2]
    for corpus, reason, *_ in EXPECTED:
        assert any(corpus in line and reason in line for line in table.splitlines())
    with pytest.raises(CorpusError) as stopped:
        capture_all(Config.model_validate(orjson.loads(mixed.read_bytes())))
    assert result.stderr.rstrip().endswith(f"logitlake: {stopped.value}")
    assert "corpora.bad.max_reject_share allows 5.0%" in result.stderr


def test_rejects_within_the_limit_are_listed_too_and_the_plan_ends_with_0(cli: Any, config_file: Path) -> None:
    result = cli("plan", "--config", config_file, "--format", "json")
    plan = json.loads(result.stdout)
    assert (result.exit_code, plan["refusals"]) == (0, [])
    assert [(row["reason"], row["rejects"], row["line"]) for row in plan["rejects"]] == [("bad_json", 1, 6)]


def test_a_plan_names_every_corpus_at_which_a_capture_would_stop(cli: Any, mixed: Path, tmp_path: Path) -> None:
    settings = orjson.loads(mixed.read_bytes())
    worse = {**settings["corpora"][0], "name": "worse"}
    mixed.write_bytes(orjson.dumps({**settings, "corpora": [*settings["corpora"], worse]}))
    result = cli("plan", "--config", mixed, "--format", "json")
    assert result.exit_code == 3
    refusals = json.loads(result.stdout)["refusals"]
    assert [refusal.split(":")[0] for refusal in refusals] == ["corpus bad", "corpus worse"]
    for refusal in refusals:
        assert refusal in result.stderr
    assert len(result.stderr[result.stderr.index("corpus bad") :].strip().splitlines()) == 2


def test_a_plan_with_max_tokens_counts_rejects_to_there(cli: Any, mixed: Path) -> None:
    """A capture does not go on either."""
    settings = orjson.loads(mixed.read_bytes())
    mixed.write_bytes(orjson.dumps({**settings, "corpora": settings["corpora"][::-1]}))
    plan = json.loads(cli("plan", "--config", mixed, "--format", "json", "--max-tokens", "1").stdout)
    assert (plan["ends"], plan["rejects"]) == ("at max_tokens 1", [])
