"""What the benchmark of quality consists of: one training per cell, and one JSON file for each that is finished."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.captured import CACHE, corpus_key
from benchmarks.quality_student import WIDTH
from benchmarks.reporting import RESULTS
from logitlake.storage.identity import canonical_json, digest

# One window a step: with so few tokens a student is short of steps, and a step costs little beside its tokens.
BATCH_SEQUENCES = 1
FULL = "full logits"
CROSS_ENTROPY = "cross-entropy"
DEFAULT = "varopt 0.05"
_QUICK_ARMS = (FULL, DEFAULT, "top_k 50", "random 12 unique")
_ARMS = (FULL, CROSS_ENTROPY, "top_k 50", "top_k 12", "random 12 unique", "varopt 0.1", DEFAULT, "varopt 0.025")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which arms are trained how often on how much. `tokens`: of the corpus; `epochs` times so many are seen."""

    arms: Sequence[str]
    seeds: Sequence[int]
    learning_rates: Sequence[float]
    tokens: int
    epochs: int
    held_out_targets: int
    quick: bool = False

    @property
    def key(self) -> str:
        """Results of another plan, or on another text, are not mixed with those of this one."""
        parts: dict[str, Any] = {"tokens": self.tokens, "epochs": self.epochs, "held_out": self.held_out_targets}
        parts |= {"width": WIDTH, "batch_sequences": BATCH_SEQUENCES}
        return digest(canonical_json({**parts, "corpus": corpus_key()}))[:8]


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm, one seed (order of the batches and draws of the targets), one learning rate."""

    arm: str
    seed: int
    learning_rate: float

    @property
    def file_name(self) -> str:
        """Where its result goes."""
        return f"{self.arm.replace(' ', '-')}.seed{self.seed}.lr{self.learning_rate:g}.json"


# A larger corpus than there is takes all of it.
QUICK = Plan(_QUICK_ARMS, (0,), (2e-3,), tokens=20_000, epochs=1, held_out_targets=3_000, quick=True)
WHOLE = Plan(_ARMS, (0, 1, 2), (5e-4, 1e-3, 2e-3), tokens=1_000_000, epochs=3, held_out_targets=20_000)


class Results:
    """The finished cells of a plan, on disk."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell; None if it is not finished."""
        path = self.directory / cell.file_name
        if not path.exists():
            return None
        result = dict(json.loads(path.read_text(encoding="utf-8")))
        return result if result["plan"] == self.plan.key else None

    def ready(self) -> list[Cell]:
        """Cells that can be trained now: until the learning rate is settled, only those that settle it."""
        left = self.left()
        return left if self.learning_rate() is not None else [cell for cell in left if cell in self.tuning()]

    def of(self, cell: Cell) -> dict[str, Any]:
        """The result of a finished cell. Raises KeyError if it is not finished."""
        result = self.read(cell)
        if result is None:
            raise KeyError(f"{cell} is not finished")
        return result

    def whole_seeds(self) -> list[int]:
        """The seeds that every arm is finished for, at the settled learning rate."""
        rate = self.learning_rate()
        if rate is None:
            return []
        return [seed for seed in self.plan.seeds if all(self.read(Cell(arm, seed, rate)) for arm in self.plan.arms)]

    def write(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write the result of a finished cell in one step."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / cell.file_name
        staged = path.with_suffix(".tmp")
        content = {"arm": cell.arm, "seed": cell.seed, "learning_rate": cell.learning_rate, "plan": self.plan.key}
        staged.write_text(json.dumps({**content, **result}, indent=1) + "\n", encoding="utf-8")
        staged.rename(path)

    def learning_rate(self) -> float | None:
        """The rate with the lowest KL on full logits (first seed); None until every rate was tried."""
        cells = self.tuning()
        results = {cell.learning_rate: self.read(cell) for cell in cells}
        kls = {rate: result["kl"] for rate, result in results.items() if result is not None}
        return min(kls, key=lambda rate: kls[rate]) if len(kls) == len(results) else None

    def tuning(self) -> list[Cell]:
        """Full logits at every learning rate."""
        return [Cell(FULL, self.plan.seeds[0], rate) for rate in self.plan.learning_rates]

    def left(self) -> list[Cell]:
        """Unfinished cells: first those that choose the learning rate, then the others seed by seed.

        Seed by seed, so that a stopped run has complete pairs. Until then, the others have the first rate.
        """
        rate = self.learning_rate() or self.plan.learning_rates[0]
        paired = [Cell(arm, seed, rate) for seed in self.plan.seeds for arm in self.plan.arms]
        cells = dict.fromkeys([*self.tuning(), *paired])
        return [cell for cell in cells if self.read(cell) is None]


def results_of(quick: bool) -> Results:
    """The full plan's results are part of the repository; a quick one's are not."""
    return Results(QUICK, CACHE / "quality-quick") if quick else Results(WHOLE, RESULTS / "quality")
