"""Damaged files of a small table replaced by one with their intact rows and those that were restored.

Nothing is taken away before its rows are elsewhere: a repair that is killed is found unfinished by the next one, which
passes over the rows that are written already.
"""

import pyarrow as pa
import pyarrow.compute as pc

from logitlake.storage.errors import LostRaceError
from logitlake.storage.failpoints import reach
from logitlake.storage.lake.lake import Lake, Transaction
from logitlake.storage.lake.views import make_views
from logitlake.storage.recovery.damaged_files import copy_aside
from logitlake.storage.schema.tables import TABLES
from logitlake.storage.verification.catalog_files import end_file
from logitlake.storage.verification.file_state import FileState
from logitlake.storage.verification.table_damage import TableDamage, plain


def replace_rows(lake: Lake, damage: TableDamage, *, found_at: int) -> dict[str, str]:
    """Carry out what `find_table_damage` found; returns the copy in `damaged/` of each file that is replaced.

    Raises LostRaceError if there was a commit after number `found_at`: find the damage again.
    """
    paths = [state.file.path for state in damage.files]
    copies = {path: copy for path in paths if (copy := copy_aside(lake.location, path))}
    torn = [state for state in damage.files if not state.has_footer]
    others = [state for state in damage.files if state.has_footer]
    # DuckLake deletes from no file of the table as long as it can't read all footers.
    if torn:
        with lake.transaction() as transaction:
            transaction.refuse_later_commits(found_at)
            _insert(transaction, damage, torn, restored=True)
            found_at = transaction.number
        reach("rows-restored")
        for state in torn:
            end_file(lake, state.file)
            reach("file-ended")
    if others:
        with lake.transaction() as transaction:
            transaction.refuse_later_commits(found_at)
            for state in others:
                _delete_rows(transaction, state)
            _insert(transaction, damage, others, restored=not torn)
    if damage.table == "lake_settings":
        with lake.exclusive():
            make_views(lake.connection)
    return copies


def _delete_rows(transaction: Transaction, state: FileState) -> None:
    connection = transaction.connection
    query = f"DELETE FROM store.{state.file.table} WHERE filename = ?"
    deleted = connection.execute(query, [state.file.path]).fetchone()
    if not deleted or deleted[0] != state.n_live:
        raise LostRaceError(f"{state.file.path}: its rows were changed meanwhile")


def _insert(transaction: Transaction, damage: TableDamage, states: list[FileState], *, restored: bool) -> None:
    parts = [plain(damage.table, state.intact) for state in states]
    if restored and damage.restored is not None:
        parts.append(damage.restored)
    rows = pa.concat_tables([part.cast(TABLES[damage.table].columns) for part in parts])
    if TABLES[damage.table].forget:
        # A document may have been forgotten since its rows were read.
        forgotten = transaction.connection.execute("SELECT DISTINCT doc_id FROM store.tombstones").to_arrow_table()
        for column in TABLES[damage.table].forgotten_by:
            rows = rows.filter(pc.invert(pc.is_in(rows[column], value_set=forgotten["doc_id"].combine_chunks())))
    transaction.insert(damage.table, rows)
