"""One inspection of a lake: its work units, its small tables, and its catalog; and what of it is damaged, exactly."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.catalog_files import current_files, without_footer
from logitlake.storage.verification.history import examine, refusal, unknown_files
from logitlake.storage.verification.known_damage import Damage, can_record, differs, known_damage, record_damage
from logitlake.storage.verification.shard_damage import TABLE, ShardDamage, find_shard_damage
from logitlake.storage.verification.table_damage import TableDamage, find_table_damage
from logitlake.storage.verification.verify import (
    TableCheck,
    UnitCheck,
    count_units,
    verify,
    verify_tables,
    verify_units,
)

# (the checks of the units, how many there will be) → the same checks, watched by a progress bar.
Watch = Callable[[Iterable[UnitCheck], int], Iterable[UnitCheck]]

# What a person does about damage, at the end of every message about it.
ADVICE = (
    "restore the named files from a backup, or let `logitlake repair` keep what is intact (`--dry-run` shows what it "
    "would do)"
)


@dataclass(slots=True)
class Inspection:
    """What was checked, and what was found.

    `missing` are commits that the data path holds and the catalog does not know; `refusal` tells a person so, or that
    the catalog is older than its data.
    `unchecked` says what could not be checked. `torn_shards` are shards that SQL can't open. `shards` and
    `table_damage` say what of the damaged units and tables is lost, and what is kept.
    """

    units: list[UnitCheck] = field(default_factory=list)
    tables: list[TableCheck] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refusal: str = ""
    unchecked: str = ""
    torn_shards: list[str] = field(default_factory=list)
    shards: ShardDamage = field(default_factory=ShardDamage)
    table_damage: dict[str, TableDamage] = field(default_factory=dict)

    @property
    def damaged_units(self) -> list[UnitCheck]:
        """The units with a problem."""
        return [unit for unit in self.units if unit.problem]

    @property
    def damaged_tables(self) -> list[TableCheck]:
        """The small tables with a problem."""
        return [table for table in self.tables if table.problem]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong, and everything could be checked."""
        return not (self.damaged_units or self.torn_shards or self.damaged_tables or self.refusal or self.unchecked)

    def damage(self, lake: Lake) -> list[Damage]:
        """What is damaged, as the lake records it."""

        def relative(path: str) -> str:
            return path.removeprefix(lake.location.data)

        documents = [
            Damage(
                table_name=TABLE,
                unit_id=lost.unit_id,
                recipe_id=lost.recipe_id,
                doc_id=lost.doc_id,
                file=relative(lost.file),
                problem=lost.problem,
            )
            for lost in self.shards.lost
        ]
        told = {lost.unit_id for lost in self.shards.lost}
        units = [
            Damage(table_name=TABLE, unit_id=unit.unit_id, recipe_id=unit.recipe_id, file="", problem=unit.problem)
            for unit in self.damaged_units
            if unit.unit_id not in told
        ]
        files = [
            Damage(table_name=name, file=relative(state.file.path), problem=state.problem)
            for name, damage in self.table_damage.items()
            for state in damage.files
        ]
        return documents + units + files


def inspect(
    lake: Lake,
    *,
    sample: float = 1.0,
    salt: str = "",
    unit_ids: Collection[str] | None = None,
    watch: Watch = lambda checks, total: checks,
) -> Inspection:
    """Check a share of the work units, or those named, all small tables, and the catalog's history.

    Small tables come first: if the one that lists the units can't be read, the units are not checked. Changes nothing.
    """
    found = Inspection(tables=list(verify_tables(lake)))
    found.table_damage = {table.table: find_table_damage(lake, table.table) for table in found.damaged_tables}
    torn = [table.table for table in found.tables if not table.readable]
    if "documents" in torn:
        found.unchecked = "the work units were not checked, because table documents can't be read"
        return found
    total = len(unit_ids) if unit_ids is not None else count_units(lake, sample=sample, salt=salt)
    found.units = list(watch(_checks(lake, sample, salt, unit_ids), total))
    if torn:
        found.unchecked = f"the history of the catalog was not checked, because table {torn[0]} can't be read"
    else:
        found.missing = examine(lake, unknown_files(lake)).missing
        found.refusal = refusal(lake, found.missing) if found.missing else lake.missing_history
    is_whole = unit_ids is None and sample >= 1
    if found.damaged_units or is_whole:
        found.torn_shards = [file.path for file in without_footer(lake, current_files(lake, TABLE))]
    if found.damaged_units or found.torn_shards:
        found.shards = find_shard_damage(lake, [unit.unit_id for unit in found.damaged_units], found.torn_shards)
    return found


def inspect_known(lake: Lake, checked: Inspection) -> Inspection | None:
    """Check what is known to be damaged and was not checked just now; None if there is no such damage."""
    known = [damage for damage in known_damage(lake) if damage.table_name == TABLE]
    if any(damage.unit_id is None for damage in known):
        return inspect(lake)
    units = {damage.unit_id for damage in known if damage.unit_id} - {unit.unit_id for unit in checked.units}
    return inspect(lake, unit_ids=sorted(units)) if units else None


def record(lake: Lake, found: Inspection) -> bool:
    """Let the lake, open for writing, know what was found; returns whether that was new."""
    units, tables = [unit.unit_id for unit in found.units], [table.table for table in found.tables]
    return record_damage(lake, found.damage(lake), unit_ids=units, tables=tables)


def is_news(lake: Lake, found: Inspection) -> bool:
    """Whether `record` would change what the lake knows. A lake of an older logitlake is not brought up for it."""
    units, tables = [unit.unit_id for unit in found.units], [table.table for table in found.tables]
    return can_record(lake) and differs(lake, found.damage(lake), unit_ids=units, tables=tables)


def _checks(lake: Lake, sample: float, salt: str, unit_ids: Collection[str] | None) -> Iterator[UnitCheck]:
    return verify(lake, sample=sample, salt=salt) if unit_ids is None else verify_units(lake, unit_ids)
