"""Progress: a bar at a terminal, and a line of `name=value` in the log every half minute elsewhere.

Work that ends within half a minute leaves no line.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from logitlake.flows.terminal.output import messages_are_printed
from logitlake.flows.terminal.quantities import duration_text

log = logging.getLogger(__name__)

Item = TypeVar("Item")

# One log line per half minute: the log of a night stays short.
_SECONDS_BETWEEN_LINES = 30.0
# Columns of a terminal that has room for everything.
_WIDE = 120


class Bar:
    """A progress bar. This one shows nothing: for work that reports otherwise."""

    def advance(self, n: int) -> None:
        """`n` more units are done."""

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""

    def expect(self, total: int | None, note: str = "") -> None:
        """Set the total (None: unknown) and the note beside the numbers."""


class _TerminalBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int) -> None:
        self._progress.advance(self._task, n)

    def reach(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def expect(self, total: int | None, note: str = "") -> None:
        self._progress.update(self._task, total=total, note=note)

    def finish(self) -> None:
        """The work is over: what was done is the total, whatever was expected."""
        self._progress.update(self._task, total=self._progress.tasks[self._task].completed)


class LoggedBar(Bar):
    """Logs progress as a line of `name=value`, at most once per `seconds_between`."""

    def __init__(self, title: str, total: int | None, unit: str, seconds_between: float) -> None:
        self._title = title
        self._unit = unit
        self._total = total
        self._done = 0
        self._between = seconds_between
        self._began = self._logged = time.monotonic()

    def advance(self, n: int) -> None:
        self._done += n
        self._log_if_due()

    def reach(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._log_if_due()

    def expect(self, total: int | None, note: str = "") -> None:
        self._total = self._total if total is None else total

    def _log_if_due(self) -> None:
        now = time.monotonic()
        if now - self._logged >= self._between:
            self._logged = now
            log.info(self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds else 0.0
        values = [f"{self._unit}={self._done}"]
        if self._total is not None:
            values.append(f"total={self._total}")
        values.append(f"per_second={rate:.3g}")
        if self._total is not None and rate:
            values.append(f"remaining_seconds={max(self._total - self._done, 0) / rate:.0f}")
        return f"{self._title} {' '.join(values)}"


class _Rate(ProgressColumn):
    """Done, total and speed, such as `64,000/118,000 tokens  1,412/s`."""

    def __init__(self, unit: str, *, with_note: bool = True) -> None:
        super().__init__()
        self._unit = unit
        self._with_note = with_note

    def render(self, task: Task) -> Text:
        total = f"/{task.total:,.0f}" if task.total else ""
        speed = task.finished_speed or task.speed
        rate = f"  {speed:,.{0 if speed >= 10 else 1}f}/s" if speed else ""
        note = f"  {task.fields['note']}" if self._with_note and task.fields.get("note") else ""
        return Text(f"{task.completed:,.0f}{total} {self._unit}{rate}{note}")


class _Left(ProgressColumn):
    """Remaining time, such as `12 min 5 s left`; empty while unknown and at the end."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        shown = task.time_remaining is not None and not task.finished
        return Text(f"{duration_text(task.time_remaining or 0)} left" if shown else "")


def quiet_transformers() -> None:
    """Turn off the progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _columns(unit: str, width: int) -> tuple[ProgressColumn, ...]:
    """What stands on the line. A narrow terminal gets what tells the end; a bar of two lines would flicker."""
    title = TextColumn("{task.description}")
    if width < _WIDE:
        return title, BarColumn(bar_width=10), _Rate(unit, with_note=False), _Left()
    return title, BarColumn(bar_width=20), _Rate(unit), TimeElapsedColumn(), _Left()


@contextmanager
def progress_bar(title: str, *, total: int | None = None, unit: str = "tokens", logged: bool = True) -> Iterator[Bar]:
    """A bar on stderr while a command runs at a terminal; else lines in the log, or none without `logged`."""
    if not (messages_are_printed() and sys.stderr.isatty()):
        yield LoggedBar(title, total, unit, _SECONDS_BETWEEN_LINES) if logged else Bar()
        return
    console = Console(stderr=True)
    with Progress(*_columns(unit, console.width), console=console, refresh_per_second=4) as progress:
        bar = _TerminalBar(progress, progress.add_task(title, total=total, note=""))
        yield bar
        bar.finish()


def watched(items: Iterable[Item], title: str, *, total: int | None, unit: str) -> Iterator[Item]:
    """The items, with a progress bar that advances after each; no bar if there are none."""
    if total == 0:
        yield from items
        return
    with progress_bar(title, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance(1)
