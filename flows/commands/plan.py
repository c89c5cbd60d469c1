"""`logitlake plan`: what a capture would compute, write and cost, before anything is paid for."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.estimate import Basis, Estimate, assumed_bytes, assumed_speed, estimate
from flows.options import (
    ConfigFile,
    Debug,
    LakePath,
    MaxHours,
    MaxTokens,
    OutputFormat,
    Overrides,
    TargetBytes,
    location_of,
    require_capture_settings,
    settings,
)
from flows.output import Format, print_record, say
from pipeline.config import Config
from storage.errors import LakeMissingError
from storage.history import stored_bytes_per_token, teacher_speed
from storage.known import KnownDocuments
from storage.lake import Lake


def plan(
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
    target_bytes: TargetBytes = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second", min=0.001, help="Speed of the teacher, if you know it.", show_default=False
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option("--price-per-hour", min=0.0, help="What an hour of the machine costs.", show_default=False),
    ] = None,
    lake: LakePath = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    form: OutputFormat = Format.TABLE,
    debug: Debug = False,
) -> None:
    """Say what a capture would compute, write and cost. Reads and tokenises the corpora; loads no teacher.

    The counts are those of a capture, not an estimate; hours and bytes are estimates that say where they come from.
    """
    flags = {
        "lake.path": lake,
        "capture.max_tokens": max_tokens,
        "capture.max_hours": max_hours,
        "target.target_bytes": target_bytes,
    }
    config = settings(config_file, overrides, flags)
    require_capture_settings(config)
    record = _plan(config, tokens_per_second, price_per_hour)
    print_record({**record, "hours": duration(record["hours"])} if form is Format.TABLE else record, form, title="Plan")
    if record["documents_rejected"]:
        say(
            f"{record['documents_rejected']:,} of the documents can't be used: a capture notes where and why, and "
            "`logitlake show rejects` shows it"
        )


def duration(hours: float) -> str:
    """Hours as a person says them: small ones as minutes or seconds."""
    if hours >= 1:
        return f"{hours:,.1f}"
    minutes = 60 * hours
    return f"{minutes:.2g} minutes" if minutes >= 1 else f"{60 * minutes:.2g} seconds"


def _plan(config: Config, tokens_per_second: float | None, price_per_hour: float | None) -> dict[str, Any]:
    # Imported here: a tokenizer and a hub client are no business of the other commands.
    from flows.preparation import prepare
    from pipeline.planning import count_plan

    prepared = prepare(config)
    recipe_id = None if prepared.question else prepared.recipe.recipe_id
    speed = stored = None
    plan = prepared.plan(lambda doc_ids: set())
    try:
        with Lake.open(location_of(config)) as lake:
            speed = teacher_speed(lake, prepared.files.teacher_hash)
            if recipe_id is not None:
                plan = prepared.plan(KnownDocuments(lake, recipe_id))
                stored = stored_bytes_per_token(lake, recipe_id)
    except LakeMissingError:
        say("no lake yet: everything is new")
    if recipe_id is None:
        say("target_bytes: the first capture makes a probe, and its answer decides the recipe; until then all is new")
    summary = count_plan(plan)
    size = (
        Basis(value=stored[0], source=f"measured over {stored[1]:,} tokens of this recipe in the lake")
        if stored
        else None
    )
    taken = estimate(
        summary.tokens,
        bytes_per_token=size or assumed_bytes(config.target),
        tokens_per_second=_speed(prepared.files.n_parameters, prepared.teacher.device, tokens_per_second, speed),
        price_per_hour=price_per_hour,
    )
    found = {"recipe_id": recipe_id, "teacher": prepared.files.name}
    counts = {
        "documents_seen": summary.documents,
        "documents_known": summary.known,
        "documents_repeated": summary.repeated,
        "documents_rejected": summary.rejected,
        "documents_new": summary.new,
        "sequences": summary.sequences,
        "tokens": summary.tokens,
        "targets": summary.targets,
        "units": summary.units,
    }
    stops = f"at max_tokens {config.capture.max_tokens:,}" if summary.capped else "at the end of the corpora"
    return {**found, **counts, "ends": stops, **_costs(taken, config.capture.max_hours)}


def _costs(taken: Estimate, max_hours: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "bytes_on_disk": taken.n_bytes,
        "bytes_per_token": taken.bytes_per_token.value,
        "bytes_per_token_from": taken.bytes_per_token.source,
        "hours": taken.hours,
        "tokens_per_second": taken.tokens_per_second.value,
        "tokens_per_second_from": taken.tokens_per_second.source,
    }
    if taken.cost is not None:
        record["cost"] = taken.cost
    if max_hours is not None and taken.hours > max_hours:
        record["max_hours"] = f"{max_hours:g} h stop it after about {max_hours / taken.hours:.0%} of the tokens"
    return record


def _speed(n_parameters: int, device: str, said: float | None, known: tuple[float, int] | None) -> Basis:
    if said is not None:
        return Basis(value=said, source="--tokens-per-second")
    if known is not None:
        return Basis(value=known[0], source=f"measured in {known[1]} earlier runs of this teacher in the lake")
    return assumed_speed(n_parameters, accelerator=_accelerator(device), n_cores=os.cpu_count() or 1)


def _accelerator(device: str) -> bool:
    """Whether the teacher will have one, as far as can be seen without torch."""
    if device == "auto":
        return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/davinci_manager"))
    return device != "cpu"
