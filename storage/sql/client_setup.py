"""SQL lines that attach the lake in any DuckDB client (command line, notebook, interface). They hold no secret."""

import os
import re

from logitlake.storage.connection.extensions import wheel_file
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import KEY_VARIABLES, SECRET_TYPES, bucket_options
from logitlake.storage.schema.tables import NAME

_PASSWORD = re.compile(r"\s*\b(?:ssl)?password\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:\\.|[^\s\\])+)")
# In a URL: before the host, or as an option.
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^:/\s]*):\S*(?=@)|(?<=[?&])(?:ssl)?password=[^&\s]*&?")


def client_lines(location: LakeLocation) -> list[str]:
    """LOAD of the installed extensions (INSTALL where they are missing), ATTACH for reading, USE."""
    lines = []
    for name in ("ducklake", "sqlite_scanner" if location.catalog_file else "postgres_scanner"):
        lines += _load(name)
    if not location.data_directory:
        lines += [*_load("httpfs"), *_bucket(location)]
    pattern = _PASSWORD_IN_URL if "://" in location.catalog else _PASSWORD
    catalog = pattern.sub(lambda match: (match.lastindex and match[1]) or "", location.catalog)
    if catalog != location.catalog:
        lines.append("-- The password is not shown: set PGPASSWORD, or keep it in ~/.pgpass.")
    # DuckLake compares some times as text: the result must not depend on the machine's time zone.
    lines.append("SET TimeZone = 'UTC';")
    options = f"DATA_PATH {_quoted(location.data)}, OVERRIDE_DATA_PATH true, READ_ONLY"
    if location.catalog_file:
        options += ", META_JOURNAL_MODE 'WAL'"
    lines += [f"ATTACH {_quoted(f'ducklake:{catalog}')} AS {NAME} ({options});", f"USE {NAME};"]
    return lines


def _load(name: str) -> list[str]:
    file = wheel_file(name)
    return [f"LOAD {_quoted(str(file))};"] if file else [f"INSTALL {name};", f"LOAD {name};"]


def _bucket(location: LakeLocation) -> list[str]:
    scheme = location.data.partition("://")[0]
    variables = KEY_VARIABLES[scheme]
    keys = {name: f"getenv('{variable}')" for name, variable in variables.items() if os.environ.get(variable)}
    how = {name: _quoted(value) for name, value in bucket_options(scheme).items() if value}
    given = "".join(f", {name} {value}" for name, value in (keys | how).items())
    return [
        "-- The command line reads the keys from the environment; elsewhere write them in place of getenv(…).",
        f"CREATE SECRET (TYPE {SECRET_TYPES[scheme]}{given});",
    ]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
