"""The golden lake of format 1 with its catalog on PostgreSQL."""

import shutil
from pathlib import Path

import duckdb

from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation

FORMAT_1 = Path(__file__).parents[1] / "golden" / "format-1" / "lake"


def old_lake_on(postgres: str, directory: Path) -> LakeLocation:
    """Copy the lake: its data into `directory`, the tables of its catalog into the empty database `postgres`."""
    shutil.copytree(FORMAT_1, directory)
    location = LakeLocation.resolve(directory, postgres, str(directory / "data"))
    with duckdb.connect() as connection:
        for name in ("ducklake", "sqlite_scanner", "postgres_scanner"):
            load_extension(connection, name)
        attach = f"ATTACH 'ducklake:{postgres}' AS made (DATA_PATH '{location.data}', METADATA_CATALOG 'new')"
        connection.execute(attach)
        connection.execute(f"ATTACH '{directory / 'catalog.sqlite'}' AS old (TYPE sqlite)")
        tables = connection.execute(
            "SELECT table_name, sql FROM duckdb_tables() WHERE database_name = 'old'"
        ).fetchall()
        made = {
            row[0]
            for row in connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = 'new'"
            ).fetchall()
        }
        for name, _statement in tables:
            if name not in made:
                connection.execute(f"CREATE TABLE new.public.{name} AS FROM old.{name}")
                continue
            connection.execute(f"DELETE FROM new.public.{name}")
            connection.execute(f"INSERT INTO new.public.{name} BY NAME FROM old.{name}")
    (directory / "catalog.sqlite").unlink()
    return location
