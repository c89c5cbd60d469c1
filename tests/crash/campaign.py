"""Many kills in a row on one lake, and every promise checked after each.

Each case is drawn from the seed and its own number, so that one can be played again: the cases since the last fresh
lake, up to it. A kill that did not meet work under way is a miss: it is not counted, and its case is drawn anew.
"""

import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake
from tests.crash.contents import Contents, contents_of, differences, disorder, doubled, facts_of
from tests.crash.killed_child import Children, Kill, Outcome
from tests.crash.operation import Operation, Order
from tests.crash.site import Site
from tests.crash.storage_operations import upkeep_and_rebuild

# Kills on one lake before it is copied anew, and kills between upkeep without grace and a rebuild.
PERIOD = 24
UPKEEP_EVERY = 8
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOST_MISSES = 50


@dataclass(frozen=True, slots=True)
class Habits:
    """How long an operation takes when nobody kills it, and the failpoints that it reaches."""

    seconds: float
    reached: dict[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One kill that met work under way."""

    number: int
    operation: str
    signal: str
    place: str


@dataclass(slots=True)
class Findings:
    """What a campaign has found."""

    seed: int
    cases: list[Case] = field(default_factory=list)
    misses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lakes: int = 0
    rebuilds: int = 0
    seconds: float = 0.0


def joined(parts: Sequence[Findings]) -> Findings:
    """The findings of parts of one campaign that were played at the same time."""
    whole = Findings(parts[0].seed)
    for part in parts:
        whole.cases += part.cases
        whole.misses += part.misses
        whole.problems += part.problems
        whole.lakes += part.lakes
        whole.rebuilds += part.rebuilds
        whole.seconds = max(whole.seconds, part.seconds)
    return whole


class Campaign:
    """The kills of one seed. `template` is a site that is copied for each period."""

    def __init__(
        self,
        template: Site,
        directory: Path,
        operations: Sequence[Operation],
        *,
        seed: int,
        on_case: Callable[[Case], None] = lambda case: None,
    ) -> None:
        self._template = template
        self._directory = directory
        self._operations = operations
        self._on_case = on_case
        self._children = Children()
        self._site = template
        self._known: Contents = Counter()
        self.habits: dict[str, Habits] = {}
        self.findings = Findings(seed)

    def run(self, numbers: Iterable[int]) -> Findings:
        """Play these cases, and stop at the first that finds a problem."""
        began = time.monotonic()
        self._renew("measured")
        self.habits = {operation.name: self._measure(operation) for operation in self._operations}
        period = None
        for number in numbers:
            if number // PERIOD != period:
                period = number // PERIOD
                self._renew(f"lake {number}")
            problems = self._problems_of(partial(self._play, number))
            if not problems and number % UPKEEP_EVERY == UPKEEP_EVERY - 1:
                problems = self._problems_of(self._upkeep)
            if problems:
                self.findings.problems = [f"case {number}: {problem}" for problem in problems]
                break
        self.findings.seconds = time.monotonic() - began
        return self.findings

    def _measure(self, operation: Operation) -> Habits:
        """Run an operation to its end."""
        order = operation.order(self._site, Random(0), "measured")
        outcome = self._children.run(operation, self._site, order, Kill())
        assert outcome.ended, f"{operation.name}: {outcome.error}"
        return Habits(outcome.seconds, outcome.reached)

    def _renew(self, name: str) -> None:
        if self._site is not self._template:
            shutil.rmtree(self._site.directory)
        self._site = self._template.copy_to(self._directory / name)
        self._known = contents_of(self._site.location)
        self.findings.lakes += 1

    def _play(self, number: int) -> list[str]:
        """One case: draw it until a kill meets work under way; returns what is wrong."""
        for attempt in count():
            chance = Random(f"{self.findings.seed} {number} {attempt}")
            operation = chance.choices(self._operations, [o.share for o in self._operations])[0]
            order = operation.order(self._site, chance, f"{number}-{attempt}")
            kill = self._draw_kill(operation, chance)
            if operation.prepares:
                self._known = contents_of(self._site.location)
            before = self._known
            location = operation.location(self._site, order)
            if location != self._site.location:
                before = contents_of(location) if _has_catalog(location) else Counter()
            outcome = self._children.run(operation, self._site, order, kill)
            case = Case(number, operation.name, signal.Signals(kill.signal or 0).name, kill.place)
            context = f"{case.operation}, {case.signal} at {kill.failpoint or f'{kill.seconds:.3f} s'}"
            problems = self._check(operation, order, before, kill, outcome)
            if problems:
                return [f"{context}: {problem}" for problem in problems]
            if outcome.is_hit(kill):
                self.findings.cases.append(case)
                self._on_case(case)
                return []
            self.findings.misses[operation.name] += 1
            if attempt == _MOST_MISSES:
                return [f"{context}: {attempt} kills in a row met no work under way"]
        raise AssertionError("not reached")

    def _draw_kill(self, operation: Operation, chance: Random) -> Kill:
        """Half of the kills at a failpoint that the operation reaches, the others at any instant of its usual time."""
        sent, habits = chance.choice(SIGNALS), self.habits[operation.name]
        if habits.reached and chance.random() < 0.5:
            name = chance.choice(sorted(habits.reached))
            return Kill(sent, f"{name}:{chance.randint(1, habits.reached[name])}")
        return Kill(sent, seconds=chance.random() * habits.seconds)

    def _check(self, operation: Operation, order: Order, before: Contents, kill: Kill, outcome: Outcome) -> list[str]:
        """Whether every promise held; the operation is done again, so that the next case begins with whole work."""
        if outcome.error or not outcome.begun:
            return [f"the child failed: {outcome.error or outcome.exit_code}"]
        if not outcome.ended and not outcome.is_hit(kill):
            return [f"the child ended with {outcome.exit_code}"]
        site, location = self._site, operation.location(self._site, order)
        if not outcome.ended:
            if _has_catalog(location) or not operation.may_lack_catalog:
                now, problems = _examined(location, may_be_missing=operation.may_lack_catalog)
                if now is not None:
                    problems += operation.problems_between(site, before, now, order, outcome.told)
                if problems:
                    return [f"after the kill: {problem}" for problem in problems]
            operation.carry_out(site, order, lambda number: None)
        now = contents_of(location)
        problems = doubled(now)
        problems += operation.problems_at_end(site, before, now, order)
        if location == site.location:
            self._known = now
        return [f"done again: {problem}" for problem in problems]

    def _upkeep(self) -> list[str]:
        upkeep_and_rebuild(self._site)
        now, problems = _examined(self._site.location)
        assert now is not None
        problems += differences(self._known, now)
        self._known = now
        self.findings.rebuilds += 1
        return [f"after upkeep without grace and a rebuild: {problem}" for problem in problems]

    def _problems_of(self, step: Callable[[], list[str]]) -> list[str]:
        """What a step finds; an error that it raises is a problem, too."""
        try:
            return step()
        except Exception:
            return [traceback.format_exc()]


def _has_catalog(location: LakeLocation) -> bool:
    return location.catalog_file is not None and location.catalog_file.exists()


def _examined(location: LakeLocation, *, may_be_missing: bool = False) -> tuple[Contents | None, list[str]]:
    """The contents of a lake and what is out of order. None: there is no complete lake, where that is allowed."""
    try:
        with Lake.open(location) as lake:
            contents = facts_of(lake)
            return contents, [*disorder(lake), *doubled(contents)]
    except LakeError:
        if may_be_missing:
            return None, []
        raise
