"""`logitlake init`: what it writes is loaded as it stands, and a plan over it finds the documents."""

import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.pipeline.settings.loading import load_config
from tests.tiny_lake import text_of

TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def chat_of(number: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": text_of(number)}, {"from": "gpt", "value": text_of(number + 1)}]


def _jsonl(folder: Path) -> None:
    lines = [orjson.dumps({"id": number, "body": text_of(number)}) for number in range(20)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))


def _parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"text": text_of(number)} for number in range(20)]), folder / "a.parquet")


def _text(folder: Path) -> None:
    for number in range(20):
        (folder / f"{number} [x].md").write_text(text_of(number))


def _chats(folder: Path) -> None:
    lines = [orjson.dumps({"conversations": chat_of(number), "tools": ""}) for number in range(20)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))


def _pairs(folder: Path) -> None:
    lines = [orjson.dumps({"question": text_of(number), "answer": text_of(number + 1)}) for number in range(20)]
    (folder / "a.ndjson").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize("name", ["notes", "~strange [näme]\n*"])
@pytest.mark.parametrize("make", [_jsonl, _parquet, _text, _chats, _pairs], ids=lambda make: make.__name__[1:])
def test_what_is_written_is_a_plan_over_all_documents(
    cli: Any, tmp_path: Path, tiny_teacher: Path, make: Any, name: str
) -> None:
    (tmp_path / name).mkdir()
    make(tmp_path / name)
    done = cli("init", name, "--teacher", tiny_teacher)
    assert done.exit_code == 0, done.stderr
    written = [line.strip() for line in done.stderr.splitlines()]
    assert [line.split("  ")[0] for line in written if line.startswith("logitlake ")] == [
        "logitlake plan",
        "logitlake capture",
        "logitlake train",
    ]
    config = load_config(tmp_path / "logitlake.yaml")
    assert config.student is not None and config.student.layers == 1
    (tmp_path / "template").write_text(TEMPLATE)
    plan = cli("plan", "--format", "json", "--set", "tokenization.chat_template=template")
    assert plan.exit_code == 0, plan.stderr
    counts = json.loads(plan.stdout)
    assert (counts["documents_new"], counts["documents_rejected"]) == (20, 0)


def test_without_a_teacher_the_file_says_what_to_fill_in_and_so_does_a_plan(cli: Any, tmp_path: Path) -> None:
    _jsonl(tmp_path)
    done = cli("init")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Fill in teacher.model in logitlake.yaml" in done.stderr
    text = (tmp_path / "logitlake.yaml").read_text()
    assert "Fill in: the model" in text and load_config(tmp_path / "logitlake.yaml").teacher is None
    plan = cli("plan")
    assert plan.exit_code == 2 and "set teacher.model in logitlake.yaml" in plan.stderr


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_no_file_is_overwritten(cli: Any, tmp_path: Path, kind: str) -> None:
    _jsonl(tmp_path)
    if kind == "file":
        (tmp_path / "logitlake.yaml").write_text("lake: {}\n")
    else:
        (tmp_path / "logitlake.yaml").symlink_to("elsewhere.yaml")
    done = cli("init")
    assert done.exit_code == 2 and "exists and is not overwritten" in done.stderr
    assert not (tmp_path / "elsewhere.yaml").exists()
    assert cli("init", "--config", "other.yaml").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [("--teacher", ""), ("nowhere",), ("empty",), ("--config", "no/such/folder.yaml")]
)
def test_a_mistake_writes_nothing(cli: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    _jsonl(tmp_path)
    (tmp_path / "empty").mkdir()
    done = cli("init", *arguments)
    assert done.exit_code in (2, 3) and done.stderr.count("logitlake: ") == 1
    assert not list(tmp_path.glob("**/*.yaml"))
