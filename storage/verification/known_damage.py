"""Damage that is known: the table `damage`, which verify and maintain fill and repair empties."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.schema.sequences import FORMAT_VERSION
from logitlake.storage.schema.tables import TABLES

_ADVICE = "`logitlake repair --dry-run` shows what can be done"
_KEY = ("table_name", "unit_id", "recipe_id", "doc_id", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One damaged document of a shard, or one damaged file of a small table (then without unit, recipe and document).

    `file` is relative to the data path, so that the lake can be moved.
    """

    table_name: str
    file: str
    problem: str
    unit_id: str | None = None
    recipe_id: str | None = None
    doc_id: str | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What tells it from other damage."""
        return tuple(getattr(self, name) for name in _KEY)


def known_damage(lake: Lake) -> list[Damage]:
    """What is known to be damaged; nothing in a lake of an older logitlake."""
    names = ", ".join((*_KEY, "problem"))
    return [Damage(**row) for row in lake.sql(f"SELECT {names} FROM store.damage ORDER BY ALL").to_pylist()]


def record_damage(lake: Lake, found: Sequence[Damage], *, unit_ids: Collection[str], tables: Collection[str]) -> bool:
    """Let the lake know the damage that a check of these units and small tables found, and no other of them.

    Commits nothing if nothing has changed; returns whether something has. The lake must be open for writing.
    """
    wanted = {damage.key: damage for damage in found}
    if not differs(lake, found, unit_ids=unit_ids, tables=tables):
        return False

    def change(transaction: Transaction) -> None:
        new, stale = _changes(lake, wanted, unit_ids, tables)
        connection = transaction.connection
        if stale:
            connection.register("mended_damage", pa.table(_columns(stale)))
            same = " AND ".join(f"d.{name} IS NOT DISTINCT FROM m.{name}" for name in _KEY)
            connection.execute(f"DELETE FROM store.damage AS d WHERE EXISTS (FROM mended_damage AS m WHERE {same})")
            connection.unregister("mended_damage")
        if new:
            rows = {**_columns(new), "problem": pa.array([damage.problem for damage in new], pa.string())}
            rows["found_at"] = pa.array([datetime.now(UTC)] * len(new), TABLES["damage"].columns.field("found_at").type)
            transaction.insert("damage", pa.table(rows))

    lake.change(change)
    return True


def differs(lake: Lake, found: Sequence[Damage], *, unit_ids: Collection[str], tables: Collection[str]) -> bool:
    """Whether `record_damage` would change anything."""
    return _changes(lake, {damage.key: damage for damage in found}, unit_ids, tables) != ([], [])


def can_record(lake: Lake) -> bool:
    """Whether the lake has the format of this logitlake: to record damage in an older one would bring it up."""
    return int(lake.row("SELECT format_version FROM store.guard")["format_version"]) == FORMAT_VERSION


def summary(lake: Lake) -> str:
    """What is known to be damaged, in a few words; empty if nothing is."""
    try:
        row = lake.row(
            """
            SELECT
                count(DISTINCT unit_id) AS units,
                count(DISTINCT (recipe_id, doc_id)) FILTER (doc_id IS NOT NULL) AS docs,
                count(DISTINCT table_name) FILTER (table_name <> 'sequences') AS tables
            FROM store.damage
            """
        )
    except LakeError:
        return f"the table damage itself can't be read; {_ADVICE}"
    parts = [f"{row['docs']:,} documents in {row['units']:,} work units"] if row["units"] else []
    parts += [f"{row['tables']:,} small tables"] if row["tables"] else []
    return f"{' and '.join(parts)} (view damage); {_ADVICE}" if parts else ""


def _changes(
    lake: Lake, wanted: dict[tuple[str | None, ...], Damage], unit_ids: Collection[str], tables: Collection[str]
) -> tuple[list[Damage], list[Damage]]:
    """What is new, and what of the known damage is no more."""
    known = {damage.key: damage for damage in known_damage(lake)}
    units = set(unit_ids)
    gone = _units_gone(lake, {damage.unit_id for damage in known.values() if damage.unit_id})
    stale = [
        damage
        for key, damage in known.items()
        if key not in wanted and (damage.unit_id in units | gone or damage.table_name in tables)
    ]
    return [damage for key, damage in wanted.items() if key not in known], stale


def _units_gone(lake: Lake, unit_ids: Collection[str]) -> set[str]:
    """Those of the units that the lake does not hold any more."""
    if not unit_ids:
        return set()
    try:
        rows = lake.sql(
            "SELECT DISTINCT unit_id FROM store.documents WHERE list_contains(?, unit_id)", [sorted(unit_ids)]
        )
    except LakeError:
        return set()
    return set(unit_ids) - set(rows["unit_id"].to_pylist())


def _columns(damage: Sequence[Damage]) -> dict[str, pa.Array]:
    return {name: pa.array([getattr(one, name) for one in damage], pa.string()) for name in _KEY}
