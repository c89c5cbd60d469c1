"""What a person at a terminal watches. In a log or a pipe there is no bar: flows log once per unit of work instead."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bar:
    """What moves: on a terminal a rich task, elsewhere nothing."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int) -> None:
        """So many units more are done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n)

    def reach(self, done: int, total: int) -> None:
        """So many units are done of so many."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)


class _Rate(ProgressColumn):
    """Done, of how many, and how fast, such as `64,000/118,000 tokens  1,412/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        total = f"/{task.total:,.0f}" if task.total else ""
        speed = task.finished_speed or task.speed
        rate = f"  {speed:,.0f}/s" if speed else ""
        return Text(f"{task.completed:,.0f}{total} {self._unit}{rate}")


def quiet_transformers() -> None:
    """Keep transformers from drawing bars of its own: loading a teacher is a second's work, and said by the run."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


@contextmanager
def progress_bar(title: str, *, total: int | None = None, unit: str = "tokens") -> Iterator[Bar]:
    """A bar on stderr for the time of the block. Costs nothing and prints nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Bar(None, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Rate(unit), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        yield Bar(progress, progress.add_task(title, total=total))
