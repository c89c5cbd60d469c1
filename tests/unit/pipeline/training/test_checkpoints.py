"""A checkpoint with any damage is named and passed over; the one before it is used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from logitlake.pipeline.training.checkpoints import (
    MANIFEST,
    READER_STATE,
    complete_checkpoint,
    last_checkpoint,
    problem_of,
    set_aside_later,
)

FILES = ("model.safetensors", "rng_state_0.pth", "rng_state_1.pth", "shards/part-1.bin")


def make(directory: Path, step: int) -> Path:
    """A checkpoint of two ranks, with files in a folder of its own."""
    checkpoint = directory / f"checkpoint-{step}"
    for name in FILES:
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(f"{name} {step}".encode() * 100)
    complete_checkpoint(checkpoint, {"epoch": 0, "batch": step})
    return checkpoint


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"a bit of {name}": (lambda c, name=name: flip(c / name), f"{name}: its content") for name in FILES},
    "a bit of the reader's state": (lambda c: flip(c / READER_STATE, 3), "reader.json: its content"),
    "a cut file": (lambda c: (c / FILES[0]).write_bytes(b"model"), "expected 2000 bytes, found 5"),
    "an empty file": (lambda c: (c / FILES[0]).write_bytes(b""), "expected 2000 bytes, found 0"),
    "a file of zeros": (lambda c: (c / FILES[0]).write_bytes(bytes(2000)), "its content"),
    "bytes at the end": (lambda c: (c / FILES[0]).write_bytes((c / FILES[0]).read_bytes() + b"x"), "2001"),
    "a rank's file is gone": (lambda c: (c / FILES[2]).unlink(), "rng_state_1.pth is missing"),
    "files swapped": (lambda c: (c / FILES[1]).replace(c / FILES[2]), "rng_state_0.pth is missing"),
    "no manifest": (lambda c: (c / MANIFEST).rename(c / f"{MANIFEST}.tmp"), "was not written to its end"),
    "a cut manifest": (lambda c: (c / MANIFEST).write_bytes((c / MANIFEST).read_bytes()[:40]), "can't be read"),
    "an empty manifest": (lambda c: (c / MANIFEST).write_bytes(b'{"files": {}}'), "does not name reader.json"),
    "a manifest of something else": (lambda c: (c / MANIFEST).write_bytes(b"[1]"), "can't be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = make(tmp_path, 9), make(tmp_path, 10)
    damage, reason = DAMAGES[name]
    damage(last)
    assert last_checkpoint(tmp_path) == before
    (line,) = caplog.messages
    assert str(last) in line and reason in line


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    """A changed manifest never lets changed files pass; where a change is without effect, the files are still whole."""
    checkpoint = make(tmp_path, 1)
    content = (checkpoint / MANIFEST).read_bytes()
    flip(checkpoint / FILES[0])
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            (checkpoint / MANIFEST).write_bytes(changed)
            assert problem_of(checkpoint)


def test_checkpoints_are_compared_by_their_steps(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    _, newest = make(tmp_path, 9), make(tmp_path, 100)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == newest


def test_without_a_whole_checkpoint_the_log_says_that_training_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(make(tmp_path, 5) / FILES[0])
    assert last_checkpoint(tmp_path) is None
    assert caplog.messages[-1].endswith("the training starts from step 0")


def test_damaged_checkpoints_do_not_take_the_place_of_whole_ones(tmp_path: Path) -> None:
    """transformers keeps the last few directories with the name of a checkpoint, whatever they hold."""
    whole, damaged, unfinished = make(tmp_path, 1), make(tmp_path, 2), make(tmp_path, 3)
    flip(damaged / FILES[0])
    (unfinished / MANIFEST).rename(unfinished / f"{MANIFEST}.tmp")
    set_aside_later(last_checkpoint(tmp_path), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [whole.name, f"damaged-{damaged.name}"]


def test_a_checkpoint_of_an_older_logitlake_is_used(tmp_path: Path) -> None:
    """It wrote the reader's state last, and no manifest."""
    older = tmp_path / "checkpoint-3"
    older.mkdir()
    (older / READER_STATE).write_text("{}")
    assert last_checkpoint(tmp_path) == older
    (older / f"{MANIFEST}.tmp").touch()
    assert last_checkpoint(tmp_path) is None
