"""Where a lake is: its catalog, and the data path with its shards."""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from logitlake.storage.errors import SettingsError
from logitlake.storage.redaction import has_password, without_secrets
from logitlake.storage.schema.sequences import SEQUENCES

_GLOB_SIGNS = frozenset("*?[")
_ADVICE = "choose another path, or name it by a symbolic link with a plain name"
# Pairs as libpq reads them; it would take the second word of a value for an option, and quote it in its error.
_CONNECTION = re.compile(r"postgres:(?:\s*\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?!')(?:\\.|[^\s\\])+)(?:\s+|$))*")
_DATA_SCHEMES = ("s3://", "gs://")
_CATALOG_SCHEMES = ("postgres:", "sqlite:", "duckdb:", "mysql:")


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeLocation:
    """A catalog (`sqlite:/path` or `postgres:connection`) and a data path (a directory or a URL, ending in /)."""

    catalog: str
    data: str

    @classmethod
    def resolve(cls, path: Path, catalog: str | None = None, data: str | None = None) -> "LakeLocation":
        """The location that settings name: by default `path/catalog.sqlite` and `path/data/`, made absolute.

        Raises SettingsError for a catalog of a kind that can't serve several processes.
        """
        root = Path(path).expanduser().absolute()
        return cls(
            catalog=catalog_address(catalog or str(root / "catalog.sqlite")), data=_data(data or str(root / "data"))
        )

    @property
    def catalog_file(self) -> Path | None:
        """The SQLite file of an embedded catalog; None for a server."""
        return Path(self.catalog.removeprefix("sqlite:")) if self.catalog.startswith("sqlite:") else None

    @property
    def data_directory(self) -> Path | None:
        """The directory of the shards; None for a URL."""
        return None if "://" in self.data else Path(self.data)

    @property
    def state_directory(self) -> Path | None:
        """Where locks and other local state lie: beside an embedded catalog; None for a server."""
        return self.catalog_file.parent if self.catalog_file else None

    def new_shard_path(self, recipe_id: str, stem: str) -> str:
        """A name that no shard has had, under the literal data path (else DuckLake stores it as absolute).

        Never the same name twice: a replaced file may still be waiting for its removal, which goes by name.
        """
        return f"{self.data}store/sequences/recipe_id={recipe_id}/{stem}-{secrets.token_hex(4)}.parquet"


def catalog_address(text: str) -> str:
    """A catalog as `LakeLocation` holds it. Raises SettingsError for one that no lake can have."""
    if text.startswith(("postgres://", "postgresql://")):
        return f"postgres:{text}"
    if text.startswith("postgres:"):
        if "://" not in text and has_password(text) and not _CONNECTION.fullmatch(text):
            raise SettingsError(
                "lake.catalog: expected name=value pairs, found a word without a name beside a password: put quotes "
                "around a value with spaces"
            )
        return text
    if text.startswith(_CATALOG_SCHEMES[2:]) or text.endswith((".duckdb", ".ducklake")):
        raise SettingsError(
            f"lake.catalog {text!r}: expected a SQLite file or postgres:…; a DuckDB file admits one process at a time "
            "and MySQL is not supported by DuckLake's commit protocol"
        )
    path = str(Path(text.removeprefix("sqlite:")).expanduser().absolute())
    _check_text("lake.catalog", path)
    return f"sqlite:{path}"


def _data(text: str) -> str:
    if "://" not in text:
        text = str(Path(text).expanduser().absolute())
        _check_text("lake.data", text)
    elif not text.startswith(_DATA_SCHEMES):
        raise SettingsError(_no_such_store(text))
    for part in text.split("/"):
        if set(part) & _GLOB_SIGNS:
            raise SettingsError(
                f"lake.data {text!r}: expected a path without any of {' '.join(sorted(_GLOB_SIGNS))}, found {part!r}: "
                f"DuckDB would take it for a pattern and find no files; {_ADVICE}"
            )
        if part.partition("=")[1] and part.partition("=")[0] in SEQUENCES.names:
            raise SettingsError(
                f"lake.data {text!r}: found the folder {part!r}, which DuckDB would read as the value of the column "
                f"{part.partition('=')[0]!r} of every shard; {_ADVICE}"
            )
    return text if text.endswith("/") else f"{text}/"


def _no_such_store(text: str) -> str:
    scheme = without_secrets(text).partition("://")[0]
    reason = f"expected a directory, s3://… or gs://…, found {scheme}://"
    if scheme in ("az", "azure", "abfs", "abfss"):
        reason += (
            ": DuckDB reaches Azure by another extension, on which no lake was ever tried. Put an S3 gateway before "
            "the container, or copy the lake to a bucket (`logitlake copy`)"
        )
    return f"lake.data: {reason}"


def _check_text(setting: str, path: str) -> None:
    """Refuse a local path that DuckDB can't take. Raises SettingsError."""
    if "\\" in path:
        raise SettingsError(
            f"{setting} {path!r}: found a backslash, which DuckDB takes for a separator of directories; {_ADVICE}"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{setting} {path!r}: found bytes that are not UTF-8; {_ADVICE}") from None
