"""Artifacts of a run on Prefect's web page: one progress bar, keyed tables, files with key figures.

Outside of a run they do nothing. If the server can't be reached the run logs a warning and continues.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from logitlake.flows.terminal.labels import label
from logitlake.flows.terminal.output import readable
from logitlake.flows.terminal.quantities import named_text


class ProgressArtifact:
    """One progress bar that is updated, instead of one artifact per work unit."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._id: UUID | None = None
        if _in_a_run():
            with _unless_unreachable():
                # Outside of a coroutine Prefect answers at once; its signature allows both.
                self._id = cast(UUID, create_progress_artifact(0.0, description=description))

    def update(self, share: float, note: str = "") -> None:
        """Move the bar to `share` of the whole, in [0, 1]; the note follows the description.

        After the first failure there are no more updates: each attempt would take minutes.
        """
        if self._id is None:
            return
        shown, self._id = self._id, None
        text = f"{self._description}: {note}" if note else self._description
        with _unless_unreachable():
            update_progress_artifact(shown, min(100.0, 100 * share), description=text)
            self._id = shown


def table_artifact(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table under a key (lower case and dashes), so that the web page shows its history over runs."""
    if _in_a_run():
        table = [{name: readable(value) for name, value in row.items()} for row in rows]
        with _unless_unreachable():
            create_table_artifact(table=table, key=key, description=description)


def file_artifact(key: str, path: Path, title: str, figures: Mapping[str, Any]) -> None:
    """The key figures of a file, and its path on the machine that ran the flow.

    The path is text: browsers refuse links from a web page to files.
    """
    if _in_a_run():
        lines = [f"- {name.replace('_', ' ')}: {readable(value)}" for name, value in figures.items()]
        fence = "`" * (1 + max((len(run) for run in re.findall("`+", str(path))), default=0))
        text = "\n".join([f"## {title}", "", *lines, "", f"File: {fence}{path}{fence}"])
        with _unless_unreachable():
            create_markdown_artifact(markdown=text, key=key, description=title)


# What most people look for, the most important first; the other values follow.
_FIGURES = (
    *("stopped", "n_documents", "n_traces", "n_tokens", "tokens_per_second", "bytes_per_token", "n_bytes", "n_kept"),
    *("teacher_seconds", "writer_seconds", "seconds", "cost", "documents_rejected"),
    *("before_kl", "after_kl", "before_top1_agreement", "after_top1_agreement", "after_cross_entropy"),
    *("teacher_cross_entropy", "train_train_loss", "train_seconds", "train_tokens_per_second", "directory"),
)


def named_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record as table rows of name and value, the figures that matter first; what is empty is left out."""
    names = [*(name for name in _FIGURES if name in record), *(name for name in record if name not in _FIGURES)]
    shown = [(name, record[name]) for name in names if record[name] not in (None, "")]
    return [{"name": label(name), "value": named_text(name, value) or value} for name, value in shown]


@contextmanager
def _unless_unreachable() -> Iterator[None]:
    """Log a warning if Prefect's server does not answer or answers with an error."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        get_run_logger().warning(
            "Prefect's server did not answer (%s: %s); the run continues", type(error).__name__, error
        )


def _in_a_run() -> bool:
    return FlowRunContext.get() is not None
