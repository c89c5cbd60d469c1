"""What is killed: an operation that writes or replaces something, done for real in a child process.

An operation draws an order by chance, carries it out (in the child, and once more after the kill), and says what a lake
may hold when it was killed on the way, and what it holds at the end.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from logitlake.storage.connection.location import LakeLocation
from tests.crash.contents import Contents, differences
from tests.crash.site import Site

Order = dict[str, Any]
# Called with the number of changes that are committed by now.
Tell = Callable[[int], None]


class Operation(ABC):
    """One kind of work. `share`: how often it is chosen, beside the others."""

    name: str
    share: float = 1.0
    # Whether SIGTERM raises an error in it, as in the flows, or ends the process at once, as in the other commands.
    cleans_up_on_sigterm = False
    # Whether the catalog may be absent when it was killed.
    may_lack_catalog = False
    # Whether `order` changes the lake of the site.
    prepares = False

    @abstractmethod
    def order(self, site: Site, chance: Random, label: str) -> Order:
        """What is to be done; `label` is new each time. May prepare the site for it."""

    @abstractmethod
    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        """Do it. Called again after a kill, it completes the work."""

    def location(self, site: Site, order: Order) -> LakeLocation:
        """The lake that is worked on."""
        return site.location

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        """What is wrong with the contents after a kill. By default the operation changes none."""
        return differences(before, now)

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        """What is wrong with the contents after the operation was completed."""
        return differences(before, now)


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit adds and removes."""

    added: Contents
    removed: Contents


class StepwiseOperation(Operation):
    """An operation that is a row of known commits: a kill leaves the first ones, the told ones at least."""

    @abstractmethod
    def changes(self, before: Contents, order: Order) -> list[Change]:
        """What each commit changes, in their order."""

    def problems_between(self, site: Site, before: Contents, now: Contents, order: Order, told: int) -> list[str]:
        states = _states(before, self.changes(before, order))[told:]
        found = [differences(state, now) for state in states]
        return min(found, key=len)

    def problems_at_end(self, site: Site, before: Contents, now: Contents, order: Order) -> list[str]:
        return differences(_states(before, self.changes(before, order))[-1], now)


def _states(before: Contents, changes: list[Change]) -> list[Contents]:
    states = [before]
    for change in changes:
        states.append(Counter(states[-1]) - change.removed + change.added)
    return states
