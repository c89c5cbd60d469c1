"""The lakes that reading is measured on: the same tokens in few shards and in many."""

from collections.abc import Iterator

from benchmarks.repeated import Unit, captured_rows, lake_of, repeated_units
from logitlake.storage.connection.location import LakeLocation

FEW = 100


def tokens_of(quick: bool) -> int:
    """How many tokens a lake holds."""
    return 2_000_000 if quick else 10_000_000


def many_of(quick: bool) -> int:
    """How many shards are many."""
    return 1000 if quick else 5000


def lake_with(shards: int, *, quick: bool) -> LakeLocation:
    """The lake of so many shards, made the first time it is asked for."""
    tokens = tokens_of(quick)
    return lake_of(f"repeated-{tokens // 10**6}M-in-{shards}", _units(shards, tokens // shards))


def _units(count: int, tokens: int) -> Iterator[Unit]:
    recipe, rows = captured_rows()
    yield from repeated_units(recipe, rows, count=count, tokens=tokens)
