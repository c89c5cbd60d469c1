"""Estimates before a capture: bytes, hours and cost, each with its source."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from logitlake.flows.capture.preparation import Prepared
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.storage.answers.history import stored_bytes_per_token, teacher_speed
from logitlake.storage.lake.lake import Lake

# Measured with a vocabulary of 49,152 on source code, zstd Parquet: bytes of one entry, and of the rest of a row.
_BYTES_BESIDE_ENTRIES = 2.5


_BYTES_PER_ENTRY = 2.0


# Two floating-point operations per parameter and token; the sustained rates below are assumptions.
_FLOPS_PER_PARAMETER = 2


_ACCELERATOR_FLOPS = 1e14


_CORE_FLOPS = 2e11


# Of a server nothing is known before the first capture.
_SERVER_TOKENS_PER_SECOND = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """A number and its source."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Expected speed and size, and the price of one hour of the machine (None if it is not set)."""

    tokens_per_second: Basis
    bytes_per_token: Basis
    price_per_hour: float | None = None

    def as_record(self) -> dict[str, Any]:
        """JSON-able: each number with its source."""
        return {
            "tokens_per_second": self.tokens_per_second.value,
            "tokens_per_second_from": self.tokens_per_second.source,
            "bytes_per_token": self.bytes_per_token.value,
            "bytes_per_token_from": self.bytes_per_token.source,
            "price_per_hour": self.price_per_hour,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimate for a plan. `cost` is None without a price."""

    n_bytes: int
    hours: float
    cost: float | None


def estimate(n_tokens: int, rates: Rates) -> Estimate:
    """Bytes on disk, teacher hours, and their price."""
    hours = n_tokens / rates.tokens_per_second.value / 3600
    return Estimate(
        n_bytes=round(n_tokens * rates.bytes_per_token.value),
        hours=hours,
        cost=None if rates.price_per_hour is None else hours * rates.price_per_hour,
    )


def spread_of(ratios: Sequence[float]) -> str:
    """Errors of earlier estimates, such as `+10 % (-10 % to +50 %) in 3 runs`: median and extremes."""
    middle, low, high = (f"{100 * (ratio - 1):+.0f} %" for ratio in (median(ratios), min(ratios), max(ratios)))
    return f"{middle} in one run" if len(ratios) == 1 else f"{middle} ({low} to {high}) in {len(ratios)} runs"


def assumed_speed(n_parameters: int, *, accelerator: bool, n_cores: int) -> Basis:
    """Tokens per second of a teacher that this lake has never run."""
    flops = _ACCELERATOR_FLOPS if accelerator else _CORE_FLOPS * n_cores
    machine = "one accelerator at 100 TFLOP/s" if accelerator else f"{n_cores} CPU cores at 0.2 TFLOP/s each"
    return Basis(
        value=flops / (_FLOPS_PER_PARAMETER * n_parameters),
        source=f"assumed: {n_parameters / 1e6:,.0f} M parameters on {machine}; --tokens-per-second sets it",
    )


def assumed_server_speed() -> Basis:
    """Tokens per second of a teacher behind a server that this lake has never run."""
    return Basis(
        value=_SERVER_TOKENS_PER_SECOND,
        source=f"assumed: {_SERVER_TOKENS_PER_SECOND:,.0f} a second of any server; --tokens-per-second sets it",
    )


def assumed_bytes(target: TargetSettings) -> Basis:
    """Bytes per token of a target that this lake has never stored."""
    if target.target_bytes is not None:
        return Basis(value=target.target_bytes, source="set by target.target_bytes")
    size = _BYTES_BESIDE_ENTRIES + _BYTES_PER_ENTRY * target.expected_entries()
    return Basis(
        value=size, source=f"assumed: about {target.expected_entries():.0f} entries per token for this sparsifier"
    )


def expected_rates(prepared: Prepared, lake: Lake | None, *, given_speed: float | None = None) -> Rates:
    """The rates to expect: given, else measured in this lake, else assumed; each names its source."""
    speed = None if lake is None else teacher_speed(lake, prepared.files.teacher_hash)
    return Rates(
        tokens_per_second=_speed(prepared, given_speed, speed),
        bytes_per_token=_size(prepared, lake),
        price_per_hour=prepared.config.capture.price_per_hour,
    )


def _size(prepared: Prepared, lake: Lake | None) -> Basis:
    """Bytes per token of all recipes of the pass together."""
    targets = (prepared.config.target, *prepared.config.targets)
    parts = [
        _size_of(target, None if number == 0 and prepared.question is not None else recipe.recipe_id, lake)
        for number, (target, recipe) in enumerate(zip(targets, prepared.recipes, strict=True))
    ]
    if len(parts) == 1:
        return parts[0]
    return Basis(value=sum(part.value for part in parts), source="; ".join(part.source for part in parts))


def _size_of(target: TargetSettings, recipe_id: str | None, lake: Lake | None) -> Basis:
    stored = None if lake is None or recipe_id is None else stored_bytes_per_token(lake, recipe_id)
    if stored is None:
        return assumed_bytes(target)
    return Basis(value=stored[0], source=f"measured over {stored[1]:,} tokens of this recipe in the lake")


def _speed(prepared: Prepared, given: float | None, measured: tuple[float, int] | None) -> Basis:
    if given is not None:
        return Basis(value=given, source="given: --tokens-per-second")
    if measured is not None:
        return Basis(
            value=measured[0],
            source=f"measured in {measured[1]:,} earlier run{'s' * (measured[1] > 1)} of this teacher in the lake",
        )
    if prepared.teacher.is_served:
        return assumed_server_speed()
    return assumed_speed(
        prepared.files.n_parameters, accelerator=_accelerator(prepared.teacher.device), n_cores=os.cpu_count() or 1
    )


def _accelerator(device: str) -> bool:
    """Whether the machine has an accelerator, as far as this can be seen without torch."""
    if device == "auto":
        return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/davinci_manager"))
    return device != "cpu"
