"""The cost of the teacher: once for the cache, or in the loop of every training."""

from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Figure, Row, Section, Table
from logitlake.flows.report.findings import Findings
from logitlake.flows.terminal.quantities import duration_text

_PASSES = 10
_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))


def cost_section(findings: Findings) -> Section | None:
    """Teacher time by number of passes (students × epochs), cached and online; and the time saved so far."""
    timed = [row for row in findings.recipes if row["tokens_per_second"] and row["n_tokens"]]
    if not timed:
        return None
    once = sum(row["teacher_seconds"] for row in timed)
    speed = {row["recipe_id"]: row["tokens_per_second"] for row in timed}
    seen = _online_seconds(findings, speed)
    online = sum(seconds for _, seconds in seen)
    lead = (
        "Online distillation runs the teacher over every token in every epoch of every student. Here the teacher ran "
        "once, at the speed measured in this lake"
    )
    figures = [Figure(value=duration_text(once), label="teacher time, once")]
    if seen:
        lead += (
            f"; online, the {'one student' if len(seen) == 1 else f'{len(seen)} students'} so far would have needed "
            f"{duration_text(online)} of teacher time."
        )
        figures.append(Figure(value=duration_text(online), label="teacher time if online"))
        if online > once:
            figures.append(Figure(value=duration_text(online - once), label="saved so far"))
    else:
        lead += "."
    lead += " The cache has paid for itself where the lines cross; every pass after that saves a whole teacher pass."
    return Section(
        key="cost",
        title="Cost: the teacher once, or in every pass",
        lead=lead,
        figures=figures,
        blocks=[_chart(findings, timed)],
    )


def _online_seconds(findings: Findings, speed: dict[str, float]) -> list[tuple[int, float]]:
    """Of each student with a measured training: its tokens, and the teacher seconds for them."""
    result = []
    for student in findings.students:
        tokens = (student["metrics"].get("train") or {}).get("tokens")
        rates = [speed[recipe_id] for recipe_id in student["recipe_ids"] or () if recipe_id in speed]
        if tokens and rates:
            result.append((tokens, tokens / (sum(rates) / len(rates))))
    return result


def _chart(findings: Findings, timed: list[dict[str, Any]]) -> Chart:
    longest = max(row["teacher_seconds"] for row in timed) * _PASSES
    size, unit = next(((size, word) for size, word in _UNITS if longest >= 2 * size), (1, "seconds"))
    lines: list[dict[str, Any]] = []
    for row in timed:
        each = row["n_tokens"] * (1 - findings.held_out_share) / row["tokens_per_second"]
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
                alt.Tooltip("way:N", title="method"),
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
        description="; ".join(_summary(findings, row) for row in timed) + ".",
        table=_table(findings, timed),
        note="Times are those of the machine that filled this lake; where the lines cross does not depend on it.",
    )


COLOURS = [charts.ACCENT, "var(--series-2)"]


def _summary(findings: Findings, row: dict[str, Any]) -> str:
    each = row["n_tokens"] * (1 - findings.held_out_share) / row["tokens_per_second"]
    return (
        f"{findings.names[row['recipe_id']]}: {duration_text(row['teacher_seconds'])} once, or {duration_text(each)} "
        f"for every pass, {duration_text(_PASSES * each)} for {_PASSES}"
    )


def _table(findings: Findings, timed: list[dict[str, Any]]) -> Table:
    rows = []
    for row in timed:
        each = row["n_tokens"] * (1 - findings.held_out_share) / row["tokens_per_second"]
        cells = [findings.names[row["recipe_id"]], row["tokens_per_second"], duration_text(row["teacher_seconds"])]
        rows.append(Row(cells=[*cells, *(duration_text(n * each) for n in (1, 2, 10))], recipes=(row["recipe_id"],)))
    columns = ["recipe", "teacher, tokens/s", "cached", "online, 1 pass", "online, 2", "online, 10"]
    return Table(caption="Teacher time, cached and online", columns=columns, rows=rows)
