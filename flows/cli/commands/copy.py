"""`logitlake copy`: the same lake at another place, brought up to date by the next copy."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.copying.copy import copy_lake
from logitlake.storage.errors import SettingsError

_SETTINGS_FILES = (".yaml", ".yml")
_ADDRESS = re.compile(r"\w+://|(s3|gs|gcs|az|azure|abfss?|postgres|postgresql|sqlite):", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CopyOptions(ResultOptions):
    """Where the copy goes."""

    destination: Annotated[
        str,
        typer.Argument(
            help="Directory of the copy, or a settings file whose section `lake` names its catalog and data.",
            show_default=False,
        ),
    ]
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the files and bytes that would be copied.")] = (
        False
    )


def copy(options: CopyOptions) -> None:
    """Copy the lake to another place, or bring an earlier copy up to date.

    Between directories, buckets and PostgreSQL, in any direction. Only new files are sent, each is compared after it
    has arrived, and the catalog follows in one transaction. What was forgotten in the lake is forgotten in the copy. A
    destination with commits of its own is refused. Stopped at any moment, the next call goes on.
    """
    source, destination = location_of(options.config()), _location(options.destination)
    with progress_bar("copy", unit="files") as bar:
        report = copy_lake(source, destination, dry_run=options.dry_run, on_file=bar.reach)
    if options.dry_run:
        say("nothing was copied: --dry-run")
    print_record(asdict(report), options.form)


def _location(destination: str) -> LakeLocation:
    """Raises SettingsError for the address of a bucket or a server."""
    if _ADDRESS.match(destination):
        raise SettingsError(
            f"copy: expected a directory or a settings file, found the address {destination}: write catalog and data "
            "of the copy into the section `lake` of a settings file, and name that file"
        )
    path = Path(destination).expanduser()
    if path.suffix in _SETTINGS_FILES:
        return location_of(settings(path, None, {}))
    return LakeLocation.resolve(path)
