"""`logitlake rebuild`: a catalog made again from the data path alone."""

from dataclasses import asdict

from logitlake.flows.cli.options import ConfigFile, Debug, LakePath, OutputFormat, Overrides
from logitlake.flows.settings import location_of, settings
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.storage.upkeep.rebuild import rebuild as make_again


def rebuild(
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Make the catalog again from the shards under the data path, for the day on which it is lost.

    Never overwrites: move what is left of the old catalog away first. Files that can't be read are named and left.
    """
    config = settings(config_file, overrides, {"lake.path": lake})
    location = location_of(config)
    with progress_bar("rebuild", unit="files") as bar:
        report = asdict(make_again(location, on_shard=bar.reach))
    for path, reason in report["skipped"].items():
        say(f"left alone: {path}: {reason}")
    print_record(report if form is Format.JSON else report | {"skipped": len(report["skipped"])}, form)
