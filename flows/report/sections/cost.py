"""What the teacher cost once, against a teacher in the loop of every student."""

from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Figure, Row, Section, Table
from logitlake.flows.report.findings import Findings
from logitlake.flows.terminal.quantities import duration_text

_PASSES = 10
_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))


def cost_section(found: Findings) -> Section | None:
    """Teacher time by number of passes (a student, an epoch), cached and online; and what was saved so far."""
    timed = [row for row in found.recipes if row["tokens_per_second"] and row["n_tokens"]]
    if not timed:
        return None
    once = sum(row["teacher_seconds"] for row in timed)
    speed = {row["recipe_id"]: row["tokens_per_second"] for row in timed}
    seen = _seen(found, speed)
    online = sum(seconds for _, seconds in seen)
    lead = (
        "Online distillation runs the teacher beside the student, over every token of every epoch of every student. "
        "Here it ran once, at the speed that this lake has measured"
    )
    figures = [Figure(value=duration_text(once), label="of the teacher, paid once")]
    if seen:
        lead += (
            f"; the {'one student' if len(seen) == 1 else f'{len(seen)} students'} so far would have needed "
            f"{duration_text(online)} of it online."
        )
        figures.append(Figure(value=duration_text(online), label="of the teacher, had it been online"))
        if online > once:
            figures.append(Figure(value=duration_text(online - once), label="saved so far"))
    else:
        lead += "."
    lead += " The cache is even where the lines cross, and what a pass saves after that is the whole teacher."
    return Section(
        key="cost",
        title="Cost: the teacher once, or every time",
        lead=lead,
        figures=figures,
        blocks=[_chart(found, timed)],
    )


def _seen(found: Findings, speed: dict[str, float]) -> list[tuple[int, float]]:
    """Of each student whose training was counted: tokens seen, and what the teacher would have needed for them."""
    result = []
    for student in found.students:
        tokens = (student["metrics"].get("train") or {}).get("tokens")
        rates = [speed[recipe_id] for recipe_id in student["recipe_ids"] or () if recipe_id in speed]
        if tokens and rates:
            result.append((tokens, tokens / (sum(rates) / len(rates))))
    return result


def _chart(found: Findings, timed: list[dict[str, Any]]) -> Chart:
    longest = max(row["teacher_seconds"] for row in timed) * _PASSES
    size, unit = next(((size, word) for size, word in _UNITS if longest >= 2 * size), (1, "seconds"))
    lines: list[dict[str, Any]] = []
    for row in timed:
        each = row["n_tokens"] * (1 - found.held_out_share) / row["tokens_per_second"]
        for passes in range(_PASSES + 1):
            for way, seconds in (("cached: once", row["teacher_seconds"]), ("online: every pass", passes * each)):
                lines.append({"recipe": row["recipe_id"], "passes": passes, "way": way, "time": seconds / size})
    base = (
        charts.chart(lines, charts.RECIPE)
        .transform_aggregate(time="sum(time)", groupby=["passes", "way"])
        .encode(
            x=alt.X(
                "passes:Q", title="passes over the training documents (students × epochs)", axis=alt.Axis(tickCount=10)
            ),
            y=alt.Y("time:Q", title=None, axis=alt.Axis(tickCount=5)),
            color=alt.Color(
                "way:N",
                scale=alt.Scale(domain=["cached: once", "online: every pass"], range=COLOURS),
                legend=alt.Legend(title=None, orient="top", symbolType="circle"),
            ),
            tooltip=[
                alt.Tooltip("way:N", title="how"),
                alt.Tooltip("passes:Q", title="passes"),
                alt.Tooltip("time:Q", title=unit, format=",.3~g"),
            ],
        )
    )
    shown = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30, filled=True))
    return Chart(
        key="cost",
        title="Teacher time by number of passes",
        spec=charts.specification(shown, charts.RECIPE, title=f"{unit} of the teacher"),
        description="; ".join(_said(found, row) for row in timed) + ".",
        table=_table(found, timed),
        note="Times are those of this lake's own machine: what counts is where the lines cross and how they part.",
    )


COLOURS = [charts.ACCENT, "var(--series-2)"]


def _said(found: Findings, row: dict[str, Any]) -> str:
    each = row["n_tokens"] * (1 - found.held_out_share) / row["tokens_per_second"]
    return (
        f"{found.names[row['recipe_id']]}: {duration_text(row['teacher_seconds'])} once, or {duration_text(each)} for "
        f"every pass, {duration_text(_PASSES * each)} for {_PASSES}"
    )


def _table(found: Findings, timed: list[dict[str, Any]]) -> Table:
    rows = []
    for row in timed:
        each = row["n_tokens"] * (1 - found.held_out_share) / row["tokens_per_second"]
        cells = [found.names[row["recipe_id"]], row["tokens_per_second"], duration_text(row["teacher_seconds"])]
        rows.append(Row(cells=[*cells, *(duration_text(n * each) for n in (1, 2, 10))], recipes=(row["recipe_id"],)))
    columns = ["recipe", "teacher, tokens/s", "cached", "online, 1 pass", "online, 2", "online, 10"]
    return Table(caption="Teacher time, cached and online", columns=columns, rows=rows)
