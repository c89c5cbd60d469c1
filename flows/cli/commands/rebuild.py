"""`logitlake rebuild`: make the catalog again from the data path alone."""

from dataclasses import asdict

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.storage.upkeep.rebuild import rebuild as make_again


def rebuild(options: ResultOptions) -> None:
    """Make a lost catalog again from the shards under the data path.

    Never overwrites a catalog: move the remains of the old one away first. Unreadable files are listed and skipped.
    """
    location = location_of(options.config())
    with progress_bar("rebuild", unit="files") as bar:
        report = asdict(make_again(location, on_shard=bar.reach))
    for path, reason in report["skipped"].items():
        say(f"skipped {path}: {reason}")
    form = options.form
    print_record(report if form is Format.JSON else report | {"skipped": len(report["skipped"])}, form)
