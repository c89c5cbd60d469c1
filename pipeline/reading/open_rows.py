"""The rows of a lake and a reader of them, in one call. Imports no loss and no transformers, which take seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.fingerprints import cache_directory
from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.reader import BATCH_TOKENS, RowSetReader
from logitlake.pipeline.targets.decoding import CutMass
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import RowSet, resolve_row_set
from logitlake.storage.writing.recipes import find_recipe

_BATCH_SEQUENCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A row set, the recipe that its targets were made by, and a reader of it."""

    row_set: RowSet
    recipe: Mapping[str, Any]
    reader: RowSetReader


def open_rows(
    lake: Path | str = "lake",
    *,
    catalog: str | None = None,
    data: str | None = None,
    recipe: str | None = None,
    where: str | None = None,
    weight: str | None = None,
    up_to_commit: int | None = None,
    held_out: bool = False,
    batch_sequences: int | None = None,
    step_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    packing: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    cut_mass: CutMass = "renormalise",
    local_copy: Path | str | bool = False,
) -> Rows:
    """Find the rows that are meant, and a reader of them; nothing is read before the reader is iterated.

    `lake` is its directory, or `catalog` and `data` name any. `recipe` is an id or a unique prefix (none: the only one
    in the lake); `where` and `weight` are SQL over the view `sequences`; held-out documents are left out, or with
    `held_out` are all there is. `local_copy` is a folder on a local disk for decoded rows, which epochs after the first
    read from (True: `local_copy` in the cache folder of logitlake). The other arguments are RowSetReader's; without
    `batch_sequences` and `step_tokens` a batch has 8 sequences. Raises LakeError or SettingsError.
    """
    location = LakeLocation.resolve(Path(lake), catalog, data)
    opened = Lake.open(location)  # for as long as there is a reader
    try:
        recipe_id, content = find_recipe(opened, recipe)
        row_set = resolve_row_set(
            opened, recipe_id=recipe_id, where=where, weight=weight, up_to_commit=up_to_commit, held_out=held_out
        )
        folder = cache_directory() / "local_copy" if local_copy is True else local_copy
        copy = LocalCopy.open(Path(folder), opened) if folder else None
    except BaseException:
        opened.close()
        raise
    reader = RowSetReader(
        row_set,
        lake_fetch(opened, row_set),
        batch_sequences=_BATCH_SEQUENCES if batch_sequences is None and step_tokens is None else batch_sequences,
        step_tokens=step_tokens,
        batch_tokens=batch_tokens,
        packing=packing,
        seed=seed,
        rank=rank,
        world_size=world_size,
        accumulation=accumulation,
        cut_mass=cut_mass,
        local_copy=copy,
    )
    return Rows(row_set=row_set, recipe=content, reader=reader)
