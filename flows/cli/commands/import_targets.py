"""`logitlake import`: targets that another program wrote, into the lake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from logitlake.flows.cli.options import ResultOptions, option
from logitlake.flows.terminal.output import print_record, say
from logitlake.pipeline.settings.registry import IMPORTS
from logitlake.storage.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ImportOptions(ResultOptions):
    """What is imported, and what is known of it."""

    folder: Annotated[Path, typer.Argument(help="Folder of *.parquet, or of *.arrow as `datasets` saves them.")]
    kind: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="Which program wrote it: distillkit, axolotl (docs/exports.md).",
            autocompletion=lambda incomplete: [name for name in IMPORTS.names() if name.startswith(incomplete)],
        ),
    ]
    teacher: Annotated[str, typer.Option("--teacher", metavar="NAME", help="Name of the teacher, for the record.")]
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="Directory of the teacher's tokenizer.")]
    settings: Annotated[
        Path | None,
        option("--settings", help="YAML file with DistillKit's logprob_compressor; default: distillkit.yaml beside."),
    ] = None
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.01, max=100, help="Temperature of the log-probabilities.")
    ] = 1.0
    window: Annotated[int, typer.Option("--window", min=2, help="Longest row in tokens; longer ones are rejected.")] = (
        4096
    )
    corpus: Annotated[
        str | None, option("--corpus", metavar="NAME", help="Name of the corpus; default: that of the folder.")
    ] = None
    check_alignment: Annotated[
        bool,
        typer.Option("--check-alignment/--no-check-alignment", help="Refuse targets that look shifted by a position."),
    ] = True


def import_(options: ImportOptions) -> None:
    """Read targets that another program wrote into the lake, marked as biased, so that students can learn from them.

    Rows that the lake holds already are passed over: run it again to continue, or after the folder has grown.
    """
    config = options.config()
    if options.kind not in IMPORTS:
        raise SettingsError(f"--from {options.kind!r}: expected one of {', '.join(IMPORTS.names())}")
    # Imported here: the tokenizer is slow to import.
    from logitlake.flows.imports.run import ImportJob, run_import

    folder = options.folder.absolute()
    job = ImportJob(
        folder=folder,
        format_name=options.kind,
        teacher=options.teacher,
        tokenizer=options.tokenizer,
        settings=options.settings,
        temperature=options.temperature,
        window=options.window,
        corpus=options.corpus or folder.name,
        check_alignment=options.check_alignment,
    )
    report = run_import(config, job)
    record = report.as_record()
    names = (
        *("run_id", "recipe_id", "teacher", "n_units", "n_documents", "n_tokens", "n_targets", "n_bytes"),
        *("bytes_per_token", "commit_number", "documents_seen", "documents_known", "documents_repeated"),
        *("documents_rejected", "seconds"),
    )
    print_record({name: record[name] for name in names}, options.form, title="Imported")
    if report.documents_rejected:
        say(f"{report.documents_rejected:,} rejected: `logitlake show rejects` lists them with the reasons")
