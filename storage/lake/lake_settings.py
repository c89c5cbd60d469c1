"""What is fixed when a lake is made: the table `lake_settings`."""

import duckdb

from logitlake.storage.errors import LakeError
from logitlake.storage.schema.tables import NAME

_REQUIRED = ("held_out_salt", "held_out_share")


def read_lake_settings(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The settings by name. Raises LakeError if the rule for held-out documents is not among them."""
    rows = connection.execute(f"SELECT name, value FROM {NAME}.store.lake_settings").fetchall()
    settings: dict[str, str] = dict(rows)
    if absent := [name for name in _REQUIRED if settings.get(name) is None]:
        raise LakeError(
            f"the lake's settings lack {' and '.join(absent)}, so held-out documents can't be told from the others: "
            "restore the catalog, or the files of store/lake_settings in the data path, from a backup"
        )
    try:
        float(settings["held_out_share"])
    except ValueError:
        raise LakeError(
            f"the lake's setting held_out_share: expected a number, found {settings['held_out_share']!r}: restore the "
            "catalog, or the files of store/lake_settings in the data path, from a backup"
        ) from None
    return settings
