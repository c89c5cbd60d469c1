"""The section `target`: what all sparsifiers share, and what each must say of itself.

A sparsifier's own settings stand beside it, in the subclass that it registers.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.registry import SPARSIFIERS

MAX_LEVELS = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeKnob:
    """The setting that decides how many bytes a target takes: what `target_bytes` chooses.

    `grid` holds the values that a measurement tries, from the fewest bytes to the most. Between two of them, log(bytes)
    is taken to be straight over log(value); with `towards_one` over log(1 - value).
    """

    setting: str
    grid: tuple[float, ...]
    whole: bool = False
    towards_one: bool = False

    def scaled(self, value: float) -> float:
        """Where a value lies on the straight scale."""
        return math.log(1 - value) if self.towards_one else math.log(value)

    def value_at(self, scaled: float) -> float:
        """Back from the scale, to 3 significant digits (of 1 - value with `towards_one`), within the grid's ends."""
        value = float(f"{math.exp(scaled):.3g}")
        if self.towards_one:
            value = round(1 - value, 9)
        elif self.whole:
            value = round(value)
        return float(min(max(value, min(self.grid)), max(self.grid)))


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFacts:
    """What SQL, the report and the evaluation must know of a sparsifier's targets. Kept beside the recipe, not hashed.

    `unbiased`: the expectation of every stored probability is the teacher's. `cuts_mass`: ids that are not stored lose
    their mass. `heads`: whether a head's code is its rounded probability or a number of draws. `noise`: the formula for
    E‖p̂-p‖² that holds (`systematic`: tails drawn by systematic sampling; `multinomial`: independent draws), None: none.
    """

    unbiased: bool
    cuts_mass: bool
    heads: Literal["probabilities", "counts"] = "probabilities"
    noise: Literal["systematic", "multinomial"] | None = None


class TargetSettings(SettingsByName):
    """What is kept of the teacher's distribution at each position."""

    registry: ClassVar = SPARSIFIERS
    name_field: ClassVar = "sparsifier"

    sparsifier: str = "varopt"
    levels: int | None = Field(
        None, ge=2, le=MAX_LEVELS, description="quantiser: probabilities are multiples of 1/levels; none: by sparsifier"
    )
    target_bytes: float | None = Field(
        None, gt=2, description="choose the sparsifier's own setting so that a target takes this many bytes"
    )
    temperature: float = Field(1.0, gt=0, le=100)
    logprob_steps_per_nat: int = Field(
        32, ge=32, le=1024, description="the real token's log-probability is rounded to 1/this nat; 1024 for traces"
    )
    seed: int = Field(0, ge=0, lt=2**63)

    facts: ClassVar[TargetFacts]
    size_knob: ClassVar[SizeKnob]
    default_levels: ClassVar[int]
    # Whether `levels` has the value of the size knob: then it is no part of the question that a size probe answers.
    levels_are_the_knob: ClassVar[bool] = False

    @property
    def levels_in_use(self) -> int:
        """Levels as set, else the sparsifier's default."""
        return self.levels or self.default_levels

    def recipe_part(self) -> dict[str, Any]:
        """The sparsifier's part of the recipe, JSON-able: its name and its own settings."""
        return {"name": self.sparsifier, **self.model_dump(mode="json", include=set(self.own_fields()))}

    def with_size(self, value: float) -> "TargetSettings":
        """The same with this value of the size knob, and without `target_bytes`."""
        exact = int(value) if self.size_knob.whole else value
        return self.model_copy(update={self.size_knob.setting: exact, "target_bytes": None})

    @abstractmethod
    def expected_entries(self) -> float:
        """Stored ids per position to expect on ordinary text, for the estimate of bytes."""

    @abstractmethod
    def make_sparsifier(self) -> Any:
        """The Sparsifier (logitlake.pipeline.targets.sparsifiers) of these settings; may load torch."""
