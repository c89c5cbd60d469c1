"""Which files of a small table are damaged, which of their rows are intact, and which rows another place holds."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.recovery.salvage import POSITION
from logitlake.storage.schema.row_hash import describe, row_hashes
from logitlake.storage.schema.tables import ROW_HASH, TABLES
from logitlake.storage.verification.catalog_files import current_files
from logitlake.storage.verification.file_state import FileState, examine_file
from logitlake.storage.verification.restored_rows import restored_rows


@dataclass(slots=True)
class TableDamage:
    """What is wrong with one small table: its damaged files (with their rows), and the `restored` rows that replace
    what they lost. `catalog_problems` are intact files that the catalog describes wrongly.

    `removed` names the rows that nothing else holds, by key; for rows that can't be read, their number and the file.
    """

    table: str
    files: list[FileState] = field(default_factory=list)
    restored: pa.Table | None = None
    removed: list[str] = field(default_factory=list)
    catalog_problems: list[str] = field(default_factory=list)

    @property
    def n_restored(self) -> int:
        """How many rows another place still holds."""
        return self.restored.num_rows if self.restored is not None else 0


def find_table_damage(lake: Lake, name: str) -> TableDamage:
    """Read every file of a small table. Memory holds the rows of the damaged files, and a hash of every other row."""
    damage = TableDamage(name)
    intact_hashes = [np.array([], np.uint64)]
    for file in current_files(lake, name):
        state = examine_file(lake, file)
        if state.catalog_problem:
            damage.catalog_problems.append(f"{file.path}: {state.problem}")
        if state.problem and not state.catalog_problem:
            damage.files.append(state)
        else:
            intact_hashes.append(content_hashes(state.intact))
    elsewhere = np.concatenate(intact_hashes)
    damage.files = [_without_copies(state, elsewhere) for state in damage.files]
    if damage.files:
        kept = pa.concat_tables([plain(name, state.intact) for state in damage.files])
        paths = [state.file.path for state in damage.files]
        # Another table that tells the rows may be damaged too: it is repaired first.
        with suppress(LakeError):
            damage.restored = restored_rows(lake, name, kept, paths, elsewhere)
        damage.removed = _removed(damage)
    return damage


def content_hashes(rows: pa.Table) -> np.ndarray:
    """The hash of the content of every row, also of one that an older logitlake stored without a hash."""
    content = rows.drop_columns([name for name in (ROW_HASH, POSITION) if name in rows.column_names])
    return np.asarray(row_hashes(content).to_numpy(zero_copy_only=False), np.uint64)


def plain(name: str, rows: pa.Table) -> pa.Table:
    """The described columns of rows, without hash and position."""
    columns = TABLES[name].columns
    return rows.select(columns.names).cast(columns)


def _without_copies(state: FileState, elsewhere: np.ndarray) -> FileState:
    """The state less the intact rows that other files hold: a repair that was stopped has written them already."""
    if state.has_footer or not state.intact.num_rows:
        return state
    fresh = ~np.isin(content_hashes(state.intact), elsewhere)
    return replace(state, intact=state.intact.filter(pa.array(fresh)))


def _removed(damage: TableDamage) -> list[str]:
    """The damaged rows whose key is in no restored row, and a line about those that can't be read and are in no other
    place."""
    restored = damage.restored
    keys = set(describe(damage.table, restored)) if restored is not None else set()
    lines = [key for state in damage.files for key in _keys(damage.table, state.damaged) if key not in keys]
    n_others = damage.n_restored - len(keys & {key for s in damage.files for key in _keys(damage.table, s.damaged)})
    n_unreadable = sum(map(_n_unreadable, damage.files)) - n_others
    if n_unreadable > 0:
        files = ", ".join(state.file.path for state in damage.files if _n_unreadable(state))
        lines.append(f"{n_unreadable} rows that can't be read, of {files}")
    return lines


def _n_unreadable(state: FileState) -> int:
    return state.n_live if state.n_lost is None else state.n_lost - state.damaged.num_rows


def _keys(name: str, rows: pa.Table) -> Sequence[str]:
    return describe(name, rows.filter(pc.is_valid(rows[TABLES[name].key[0]])))
