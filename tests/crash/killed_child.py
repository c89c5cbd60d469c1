"""An operation in a child process that is killed under way, and what is known about the kill.

The child says that the operation has begun, how far it is, and that it has ended. The kill counts as a hit if the
operation had begun, had not ended, and the child died by the signal. Children are forked by a server process that has
imported everything, so that a kill does not pay for imports.
"""

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from signal import Signals
from types import FrameType
from typing import NoReturn

import duckdb

from logitlake.flows.runtime.termination import TerminatedError
from logitlake.storage import failpoints
from tests.crash.operation import Operation, Order
from tests.crash.site import Site
from tests.quick_duckdb import connect_quickly

_PRELOADED = ("logitlake", "transformers", "accelerate", "safetensors", "tests.crash")
# Longer than any operation takes on a busy machine.
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal, and when it is sent: at a failpoint (`name:3` for the third time), or so many seconds after the
    beginning. Without a signal the operation runs to its end."""

    signal: Signals | None = None
    failpoint: str | None = None
    seconds: float = 0.0

    @property
    def place(self) -> str:
        return self.failpoint.partition(":")[0] if self.failpoint else "any instant"


@dataclass(slots=True)
class Outcome:
    """What is known afterwards. `reached` counts the failpoints that an operation passed which ran to its end."""

    begun: bool = False
    ended: bool = False
    told: int = 0
    error: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    reached: dict[str, int] = field(default_factory=dict)

    def is_hit(self, kill: Kill) -> bool:
        """Whether the signal is known to have met work under way."""
        return self.begun and not self.ended and kill.signal is not None and self.exit_code == -kill.signal


class Children:
    """Starts children for operations at one site after the other."""

    def __init__(self) -> None:
        self._context = get_context("forkserver")
        # What this process has imported by now: nothing of it starts threads when it is imported.
        loaded = [name for name in sys.modules if name.startswith(_PRELOADED) and ".test_" not in name]
        self._context.set_forkserver_preload(loaded)

    def run(self, operation: Operation, site: Site, order: Order, kill: Kill) -> Outcome:
        """Run an operation in a child, and send it the signal."""
        here, there = self._context.Pipe()
        environment = {}
        if kill.signal is not None and kill.failpoint is not None:
            environment = {
                failpoints.ENVIRONMENT_VARIABLE: kill.failpoint,
                failpoints.SIGNAL_VARIABLE: kill.signal.name,
            }
        elif kill.signal is None:
            # No failpoint has this name: the child only counts what it reaches.
            environment = {failpoints.ENVIRONMENT_VARIABLE: "none"}
        process = self._context.Process(target=_child, args=(there, operation, site, order, environment))
        process.start()
        there.close()
        outcome = Outcome()
        _listen(here, outcome, until_begun=True)
        if outcome.begun and kill.signal is not None and kill.failpoint is None:
            time.sleep(kill.seconds)
            # The child waits for an answer at its end, so its number is not taken by another process.
            os.killpg(process.pid or 0, kill.signal)
        _listen(here, outcome, until_begun=False)
        here.close()
        process.join(_PATIENCE)
        if process.exitcode is None:
            outcome.error = f"still at work after {_PATIENCE:.0f} s"
            process.kill()
            process.join()
        outcome.exit_code = process.exitcode
        return outcome


def _listen(pipe: Connection, outcome: Outcome, *, until_begun: bool) -> None:
    """Take over what the child says, until it has begun, or until it is gone."""
    while not (until_begun and outcome.begun):
        try:
            if not pipe.poll(_PATIENCE):
                return
            what, value = pipe.recv()
        except (EOFError, OSError):
            return
        if what == "begun":
            outcome.begun = True
        elif what == "told":
            outcome.told = value
        elif what == "error":
            outcome.error = value
        elif what == "ended":
            outcome.ended = True
            outcome.seconds, outcome.reached = value
            pipe.send("seen")


def _child(pipe: Connection, operation: Operation, site: Site, order: Order, environment: dict[str, str]) -> NoReturn:
    """The child: a process group of its own, as a shell starts a command."""
    os.setpgid(0, 0)
    duckdb.connect = connect_quickly
    os.environ.update(environment)
    received: list[int] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def terminated(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise TerminatedError

    signal.signal(signal.SIGINT, interrupted)
    if operation.cleans_up_on_sigterm:
        signal.signal(signal.SIGTERM, terminated)
    try:
        pipe.send(("begun", None))
        began = time.monotonic()
        operation.carry_out(site, order, lambda number: pipe.send(("told", number)))
        pipe.send(("ended", (time.monotonic() - began, dict(failpoints._reached))))
        pipe.recv()
    except BaseException:
        if not received:
            pipe.send(("error", traceback.format_exc()))
            os._exit(1)
    if received:
        # As Python itself does after Ctrl-C: what waits for this process learns of the signal.
        signal.signal(received[0], signal.SIG_DFL)
        os.kill(os.getpid(), received[0])
    os._exit(0)
