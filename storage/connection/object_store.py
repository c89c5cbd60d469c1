"""Bytes under the data path: a directory, or a bucket that DuckDB's httpfs reaches.

In a directory, a file is staged, synced and renamed, and its folder is synced: it is complete or not there. In a
bucket, a file appears when its upload is complete. Reads and writes use the same credentials.
"""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import duckdb

from logitlake.storage.connection.disk_errors import disk_problem, lake_folders
from logitlake.storage.connection.extensions import load_extension
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.open_connections import closing
from logitlake.storage.errors import LakeError
from logitlake.storage.failpoints import reach

_GLOB_SIGN = re.compile(r"[*?\[]")
STAGING_SUFFIX = ".tmp"

# Options of a DuckDB secret, and the environment variables that hold them, by the scheme of the data path. Google's are
# HMAC keys, with which its storage answers to S3's requests.
KEY_VARIABLES = {
    "s3": {
        "KEY_ID": "AWS_ACCESS_KEY_ID",
        "SECRET": "AWS_SECRET_ACCESS_KEY",
        "SESSION_TOKEN": "AWS_SESSION_TOKEN",
    },
    "gs": {"KEY_ID": "GCS_ACCESS_KEY_ID", "SECRET": "GCS_SECRET_ACCESS_KEY"},
}
SECRET_TYPES = {"s3": "s3", "gs": "gcs"}
# A request that fails with 429 or 5xx, or is cut off, is sent again after .1, .25, .6, 1.6, 3.9 and 9.8 s.
_RETRIES = {"http_retries": 6, "http_retry_wait_ms": 100, "http_retry_backoff": 2.5}


def configure_object_store(connection: duckdb.DuckDBPyConnection, location: LakeLocation) -> None:
    """Let a connection reach the data path. Credentials come from environment variables only: AWS_… for s3://,
    GCS_… for gs://."""
    if location.data_directory:
        return
    load_extension(connection, "httpfs")
    for name, value in _RETRIES.items():
        connection.execute(f"SET {name} = {value}")
    address = urlparse(location.data)
    keys = {name: os.environ.get(variable) for name, variable in KEY_VARIABLES[address.scheme].items()}
    options = keys | bucket_options(address.scheme)
    given = "".join(f", {name} {_quoted(value)}" for name, value in options.items() if value)
    scope = _quoted(f"{address.scheme}://{address.netloc}")
    connection.execute(
        f"CREATE OR REPLACE SECRET logitlake_data (TYPE {SECRET_TYPES[address.scheme]}, SCOPE {scope}{given})"
    )


def bucket_options(scheme: str) -> dict[str, str | None]:
    """How the S3 server of the environment is reached; nothing secret. Google's has one address."""
    if scheme != "s3":
        return {}
    endpoint = urlparse(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return {
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "ENDPOINT": endpoint.netloc or None,
        "URL_STYLE": "path" if endpoint.netloc else None,
        "USE_SSL": "false" if endpoint.scheme == "http" else None,
    }


def put_bytes(location: LakeLocation, name: str, content: bytes) -> str:
    """Write `name` under the data path, whole or not at all, and return its full path.

    Raises LakeError with advice when the disk is full or the path can't be written.
    """
    path = location.data + name
    try:
        if location.data_directory:
            _put_file(Path(path), content)
        else:
            _put_object(location, path, content)
    except (OSError, duckdb.Error) as error:
        problem = disk_problem(error, lake_folders(location))
        reason = problem or f"{error}: check that it exists and may be written; what was committed before stays"
        raise LakeError(f"{path}: {len(content):,} bytes can't be written: {reason}") from error
    return path


def write_note(location: LakeLocation, name: str, content: Mapping[str, Any]) -> None:
    """Write a small JSON file beside the data, whole or not at all: what `rebuild` starts from."""
    put_bytes(location, name, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode())


def read_note(location: LakeLocation, name: str) -> dict[str, Any] | None:
    """A JSON file beside the data; None if there is none, or no data yet. Raises ValueError if it is no JSON."""
    directory = location.data_directory
    if (directory is not None and not directory.is_dir()) or not list_paths(location, name):
        return None
    (content,) = read_all(location, name).values()
    note: dict[str, Any] = json.loads(content)
    return note


def read_all(location: LakeLocation, pattern: str) -> dict[str, bytes]:
    """Every file under the data path that matches a glob pattern, by full path."""
    with connect(location) as connection:
        rows = connection.execute("SELECT filename, content FROM read_blob(?)", [location.data + pattern]).fetchall()
    return dict(sorted(rows))


def list_paths(location: LakeLocation, pattern: str) -> list[str]:
    """Full paths under the data path that match a glob pattern, sorted."""
    if not _GLOB_SIGN.search(pattern):
        # DuckDB does not look whether a file of a bucket is there unless its name is a pattern.
        pattern = f"{pattern[:-1]}[{pattern[-1]}]"
    with connect(location) as connection:
        return sorted(row[0] for row in connection.execute("FROM glob(?)", [location.data + pattern]).fetchall())


def removed_paths(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> set[str]:
    """Those of some full paths that are not there any more: another process may remove a file that was listed."""
    return {path for path in paths if not connection.execute("FROM glob(?)", [f"{path[:-1]}[{path[-1]}]"]).fetchone()}


def is_staged(name: str) -> bool:
    """Whether this is the name of an unfinished write of this module."""
    return re.fullmatch(rf".+\.(parquet|json)(\.damaged)?\.\d+{re.escape(STAGING_SUFFIX)}", name) is not None


def _put_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two threads, or two machines with the same process number, may write the same note at once.
    staged = path.with_name(f"{path.name}.{os.getpid()}{secrets.randbelow(10**9):09}{STAGING_SUFFIX}")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        reach("file-staged")
        staged.replace(path)
        reach("file-renamed")
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename durable, where the system lets a directory be opened."""
    with contextlib.suppress(PermissionError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_object(location: LakeLocation, path: str, content: bytes) -> None:
    with connect(location) as connection:
        connection.execute("CREATE TEMP TABLE outgoing (content BLOB)")
        connection.execute("INSERT INTO outgoing VALUES (?)", [content])
        connection.execute(f"COPY outgoing TO {_quoted(path)} (FORMAT blob)")


@contextlib.contextmanager
def connect(location: LakeLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new connection that reaches the data path, with no catalog attached."""
    with closing(duckdb.connect()) as connection:
        configure_object_store(connection, location)
        yield connection


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
