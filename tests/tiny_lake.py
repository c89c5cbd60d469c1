"""A lake that is captured in a second: its documents, its settings, and a capture without Prefect."""

from pathlib import Path
from typing import Any

import orjson

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport
from logitlake.pipeline.settings.models import Config

SENTENCES = ("the cat sat on the mat", "the dog sat on the log", "a small text for a small vocabulary")


def text_of(number: int) -> str:
    """The text of document `number`; each number has another text."""
    return f"{SENTENCES[number % 3]} and {number} the {SENTENCES[(number + 1) % 3]}"


def append_documents(path: Path, begin: int, end: int) -> None:
    """Append documents number `begin` to `end` to a JSON Lines file."""
    with path.open("ab") as file:
        for number in range(begin, end):
            file.write(orjson.dumps({"text": text_of(number)}) + b"\n")


def tiny_settings(directory: Path, teacher: Path, corpus: Path, **training: Any) -> dict[str, Any]:
    """The settings of a small lake in `directory`, as YAML would give them; `training` adds to that section."""
    return {
        "lake": {"path": str(directory / "lake"), "held_out": {"share": 0.2}},
        "teacher": {"model": str(teacher), "device": "cpu", "dtype": "float32"},
        "corpora": [{"name": "test", "kind": "jsonl", "path": str(corpus)}],
        "tokenization": {"window": 32, "overlap": 8},
        "capture": {"unit_tokens": 300, "batch_tokens": 256},
        "student": {"source": "teacher", "layers": 1},
        "training": {"batch_sequences": 4, "precision": "fp32", "device": "cpu", **training},
    }


def capture_all(config: Config) -> CaptureReport:
    """What the teacher flow does, without Prefect."""
    with CaptureRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
    return run.report
