"""`logitlake rebuild`: make the catalog again from the data path alone."""

from dataclasses import asdict

from logitlake.flows.cli.options import ResultOptions
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.output import Format, print_record, say
from logitlake.flows.terminal.progress import progress_bar
from logitlake.storage.errors import IntegrityError
from logitlake.storage.rebuild.catalog import rebuild as make_again


def rebuild(options: ResultOptions) -> None:
    """Make a lost catalog again from the shards under the data path.

    Never overwrites a catalog: move the remains of the old one away first. Damaged files and rows are listed and left
    out; exit code 7 if there are any. The catalog is complete then, and no file is removed.
    """
    location = location_of(options.config())
    with progress_bar("rebuild", unit="files") as bar:
        report = asdict(make_again(location, on_shard=bar.reach))
    for path, reason in report["skipped"].items():
        say(f"skipped {path}: {reason}")
    for path, reason in report["damaged"].items():
        say(f"damaged {path}: {reason}")
    form = options.form
    counts = {name: len(report[name]) for name in ("skipped", "damaged")}
    print_record(report if form is Format.JSON else report | counts, form)
    if report["damaged"]:
        raise IntegrityError(
            f"the catalog was made, but {len(report['damaged'])} damaged files, rows or notes were left out (listed "
            "above). Restore these files from a backup, move the catalog away and run `logitlake rebuild` again; or "
            "run `logitlake capture` again, which stores documents that are missing"
        )
