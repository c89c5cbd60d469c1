"""`logitlake show run`: what it did and cost, beside its estimate."""

from typing import Any

from logitlake.flows.cli.screens.recipe import flat
from logitlake.flows.terminal.comparison import compared, comparison_rows
from logitlake.flows.terminal.output import Format
from logitlake.flows.terminal.screen import print_screen
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.runs import find_run


def show_run(lake: Lake, beginning: str, form: Format) -> None:
    """A run by the beginning of its id, or `last`."""
    run = find_run(lake, beginning)
    detail = run.pop("detail")
    expected = detail.get("expected") or run.pop("started").get("expected") or {}
    took = (run["ended_at"] - run["started_at"]).total_seconds() if run["ended_at"] and run["started_at"] else None
    head = {
        "run_id": run["run_id"],
        "kind": run["kind"],
        "status": run["status"],
        "error": detail.get("error"),
        "started_at": run["started_at"],
        "ended_at": run["ended_at"],
        "seconds": took,
        "recipe_id": run["recipe_id"],
    }
    committed = {
        name: run[name]
        for name in ("n_documents", "n_tokens", "n_bytes", "teacher_seconds", "tokens_per_second")
        if run["first_commit"] is not None
    }
    if committed:
        committed["commits"] = f"{run['first_commit']} to {run['last_commit']}"
    report = {
        name: value
        for name, value in flat(detail.get("report", {})).items()
        if name not in head and name not in committed and value not in (None, "")
    }
    if run["kind"] == "capture" and took is not None and (price := expected.get("price_per_hour")) is not None:
        head["cost"] = took / 3600 * price
    rows = compared(expected, {**run, "seconds": took})
    sections: dict[str, Any] = {
        "run": head,
        "committed": committed,
        "compared": rows if form is not Format.TABLE else comparison_rows(rows),
        "report": report,
        "engine": flat(detail.get("engine") or {}),
    }
    print_screen(sections, form)
