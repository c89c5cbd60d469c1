"""Which shards are damaged, and which documents that costs.

A document is whole if the lake's files hold as many intact rows of it as were committed, whichever files they are in.
All other documents of a damaged unit are lost, unless files that the catalog no longer names hold them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.salvage import salvage
from logitlake.storage.recovery.table_files import data_files
from logitlake.storage.schema.sequences import differing_rows
from logitlake.storage.verification.catalog_files import CatalogFile, current_files
from logitlake.storage.verification.file_state import FileState, examine_file

TABLE = "sequences"
KEY = ("recipe_id", "unit_id", "doc_id")
# Recipe, unit and document.
Key = tuple[str, str, str]
# The intact windows of each document in one file.
Windows = dict[Key, set[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedShard:
    """A shard that has to be replaced. `has_footer`: DuckLake can delete its rows."""

    file: CatalogFile
    problem: str
    n_lost: int | None
    has_footer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LostDocument:
    """A document with a row that is damaged or missing, and that no file holds whole."""

    recipe_id: str
    unit_id: str
    doc_id: str
    file: str
    problem: str

    @property
    def key(self) -> Key:
        """Recipe, unit and document."""
        return (self.recipe_id, self.unit_id, self.doc_id)


@dataclass(slots=True)
class ShardDamage:
    """What is wrong with the shards of some units.

    `kept` are the windows to keep of each shard in `shards`, and `copies` those to take from each file that the catalog
    does not name. `catalog_problems` are intact shards that the catalog describes wrongly.
    """

    shards: list[DamagedShard] = field(default_factory=list)
    lost: list[LostDocument] = field(default_factory=list)
    kept: dict[str, Windows] = field(default_factory=dict)
    copies: dict[str, Windows] = field(default_factory=dict)
    catalog_problems: list[str] = field(default_factory=list)


def find_shard_damage(lake: Lake, unit_ids: Collection[str], torn: Collection[str] = ()) -> ShardDamage:
    """Read every shard that may hold rows of these units, those named in `torn`, and whatever may hold rows of the
    units of a damaged shard."""
    damage, units = ShardDamage(), set(unit_ids)
    files = current_files(lake, TABLE)
    windows: dict[str, Windows] = {}
    shards: dict[str, DamagedShard] = {}
    while new := [
        file for file in files if file.path not in windows and (file.path in torn or file.may_hold(sorted(units)))
    ]:
        for file in new:
            state = examine_file(lake, file)
            windows[file.path] = windows_of(state.intact)
            if state.catalog_problem:
                damage.catalog_problems.append(f"{file.path}: {state.problem}")
            elif state.problem:
                shards[file.path] = _damaged(state)
                units |= _units_within(lake, file)
    expected = _expected(lake, units)
    _decide(damage, expected, windows, shards, {file.path: file for file in files})
    if damage.lost:
        _take_copies(lake, damage, expected, {file.path for file in files})
    return damage


def windows_of(rows: pa.Table) -> Windows:
    """The windows of each document in these rows."""
    windows: Windows = defaultdict(set)
    for *key, window in zip(*(rows[name].to_pylist() for name in (*KEY, "window_index")), strict=True):
        windows[(key[0], key[1], key[2])].add(window)
    return dict(windows)


def rows_within(rows: pa.Table, windows: Windows) -> pa.Table:
    """The rows that `windows` names, each once."""
    seen: set[tuple[Key, int]] = set()
    keep = []
    for *parts, window in zip(*(rows[name].to_pylist() for name in (*KEY, "window_index")), strict=True):
        key = (parts[0], parts[1], parts[2])
        keep.append(window in windows.get(key, ()) and (key, window) not in seen)
        seen.add((key, window))
    return rows.filter(pa.array(keep, pa.bool_()))


def intact_copies(lake: Lake, path: str) -> pa.Table:
    """The intact rows of a shard that the catalog does not name."""
    rows = salvage(lake.location, TABLE, path).rows
    return rows.filter(pc.invert(differing_rows(rows)))


def _decide(
    damage: ShardDamage,
    expected: dict[Key, int],
    windows: dict[str, Windows],
    shards: dict[str, DamagedShard],
    files: dict[str, CatalogFile],
) -> None:
    """Which documents are lost, which shards have to be replaced, and which of their windows are kept."""
    places: dict[Key, list[str]] = defaultdict(list)
    for path, of_file in windows.items():
        for key in of_file:
            places[key].append(path)
    lost: list[Key] = []
    for key, n_sequences in expected.items():
        if len(set().union(*(windows[path][key] for path in places[key]))) != n_sequences:
            lost.append(key)
            for path in places[key]:
                shards.setdefault(path, _incomplete(files[path], key[2]))
    whole = expected.keys() - set(lost)
    taken: set[tuple[Key, int]] = {
        (key, window)
        for path, of_file in windows.items()
        if path not in shards
        for key, of_document in of_file.items()
        for window in of_document
    }
    for path in sorted(shards):
        kept: Windows = {}
        for key, of_document in windows[path].items():
            fresh = {window for window in of_document if (key, window) not in taken}
            if key in whole and fresh:
                kept[key] = fresh
                taken |= {(key, window) for window in fresh}
        damage.kept[path] = kept
    damage.shards = [shards[path] for path in sorted(shards)]
    for key in sorted(lost):
        path, problem = _blamed(key, places[key], damage.shards)
        damage.lost.append(LostDocument(recipe_id=key[0], unit_id=key[1], doc_id=key[2], file=path, problem=problem))


def _blamed(key: Key, places: list[str], shards: list[DamagedShard]) -> tuple[str, str]:
    """The damaged shard that a lost document was in, as far as can be told, and its problem."""
    for shard in shards:
        if shard.file.path in places or (f"recipe_id={key[0]}/" in shard.file.path and shard.file.may_hold([key[1]])):
            return shard.file.path, shard.problem
    return "", "no file holds its rows"


def _take_copies(lake: Lake, damage: ShardDamage, expected: dict[Key, int], named: set[str]) -> None:
    """Look for lost documents in files that the catalog no longer names, such as those that were merged."""
    lost = {document.key for document in damage.lost}
    recipes = tuple(f"/recipe_id={recipe_id}/" for recipe_id in {key[0] for key in lost})
    for path in data_files(lake.location, TABLE):
        if path in named or not any(recipe in path for recipe in recipes) or not lost:
            continue
        of_file = windows_of(intact_copies(lake, path))
        whole = {key for key in lost & of_file.keys() if len(of_file[key]) == expected[key]}
        if whole:
            damage.copies[path] = {key: of_file[key] for key in whole}
            lost -= whole
    damage.lost = [document for document in damage.lost if document.key in lost]


def _expected(lake: Lake, units: Collection[str]) -> dict[Key, int]:
    """How many rows each document of these units had when it was committed."""
    rows = lake.sql(
        "SELECT recipe_id, unit_id, doc_id, n_sequences FROM store.documents WHERE list_contains(?, unit_id)",
        [sorted(units)],
    )
    return {(row["recipe_id"], row["unit_id"], row["doc_id"]): row["n_sequences"] for row in rows.to_pylist()}


def _units_within(lake: Lake, file: CatalogFile) -> set[str]:
    """The units that a shard may hold, by the statistics of the catalog."""
    rows = lake.sql(
        """
        SELECT DISTINCT unit_id FROM store.documents
        WHERE contains($path, '/recipe_id=' || recipe_id || '/')
            AND ($first::VARCHAR IS NULL OR $last::VARCHAR IS NULL OR unit_id BETWEEN $first AND $last)
        """,
        {"path": file.path, "first": file.first_unit, "last": file.last_unit},
    )
    return set(rows["unit_id"].to_pylist())


def _damaged(state: FileState) -> DamagedShard:
    return DamagedShard(file=state.file, problem=state.problem, n_lost=state.n_lost, has_footer=state.has_footer)


def _incomplete(file: CatalogFile, doc_id: str) -> DamagedShard:
    return DamagedShard(file=file, problem=f"it lacks rows of document {doc_id}", n_lost=0, has_footer=True)


def all_shards(lake: Lake) -> Iterator[FileState]:
    """The state of every shard that the catalog names, one at a time."""
    for file in current_files(lake, TABLE):
        yield examine_file(lake, file)
