"""The contents of the lake, and its growth."""

from datetime import datetime
from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Figure, Row, Section, Table
from logitlake.flows.report.findings import Findings
from logitlake.flows.report.text import big
from logitlake.flows.terminal.quantities import bytes_text, duration_text


def holdings_section(findings: Findings) -> Section:
    """Counts, growth over time, a table by recipe and corpus, and the latest runs."""
    totals = findings.totals
    n_bytes = sum(row["n_bytes"] for row in findings.recipes)
    seconds = sum(row["teacher_seconds"] for row in findings.recipes)
    if not totals["n_tokens"]:
        lead = "The lake is empty. `logitlake capture` runs the teacher over the corpora and fills it."
        blocks: list[Chart | Table] = [_runs(findings)] if findings.runs else []
        return Section(key="holdings", title="What is in the lake", lead=lead, blocks=blocks)
    figures = [
        Figure(value=big(totals["n_documents"]), label="documents"),
        Figure(value=big(totals["n_tokens"]), label="tokens cached"),
        Figure(value=bytes_text(n_bytes), label="on disk"),
        Figure(value=duration_text(seconds), label="teacher time"),
    ]
    if totals["n_students"]:
        figures.append(Figure(value=big(totals["n_students"]), label=_plural(totals["n_students"], "student")))
    lead = (
        f"The teacher has read {totals['n_tokens']:,} tokens of {totals['n_documents']:,} documents; "
        f"{totals['n_targets']:,} targets are stored. {findings.held_out_share:.0%} of the documents are held out: "
        "students are measured on them and never trained on them."
    )
    if totals["n_rejects"]:
        rejects = f"{totals['n_rejects']:,} {_plural(totals['n_rejects'], 'input')}"
        lead += f" {rejects} can't be used (`logitlake show rejects`)."
    if totals["n_forgotten"]:
        lead += f" Forgotten: {totals['n_forgotten']:,} {_plural(totals['n_forgotten'], 'document')}."
    return Section(
        key="holdings",
        title="What is in the lake",
        lead=lead,
        figures=figures,
        blocks=[_growth(findings), _contents(findings), _runs(findings)],
    )


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _growth(findings: Findings) -> Chart:
    rows: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "name": findings.names[row["recipe_id"]], "corpus": row["corpus"]}
        | {"time": row["committed_at"], "tokens": row["n_tokens"]}
        for row in findings.growth
    ]
    # A line begins at zero, when the first unit of its recipe began.
    firsts = {(row["recipe_id"], row["corpus"]): row for row in reversed(findings.growth)}
    rows += [
        {"recipe": recipe, "name": findings.names[recipe], "corpus": corpus, "time": row["began_at"], "tokens": 0}
        for (recipe, corpus), row in firsts.items()
    ]
    shown = (
        charts.chart(rows, charts.RECIPE, charts.CORPUS)
        .transform_aggregate(tokens="sum(tokens)", groupby=["name", "time"])
        .transform_window(total="sum(tokens)", sort=[alt.SortField("time")], groupby=["name"])
        .mark_line(interpolate="step-after", strokeWidth=2, point=alt.OverlayMarkDef(size=36, filled=True))
        .encode(
            x=alt.X(
                "time:T",
                title="time of the commit (UTC)",
                scale=alt.Scale(type="utc"),
                axis=alt.Axis(format=_time_format(findings), tickCount=6),
            ),
            y=alt.Y("total:Q", title=None, axis=alt.Axis(format="~s", tickCount=5)),
            color=charts.colour_by_name(list(findings.names.values())),
            tooltip=[
                alt.Tooltip("name:N", title="recipe"),
                alt.Tooltip("time:T", title="commit", format="%Y-%m-%d %H:%M"),
                alt.Tooltip("tokens:Q", title="tokens added", format=","),
                alt.Tooltip("total:Q", title="total tokens", format=","),
            ],
        )
    )
    first, last = findings.growth[0]["committed_at"], findings.growth[-1]["committed_at"]
    return Chart(
        key="growth",
        title="Growth",
        spec=charts.specification(shown, charts.RECIPE, charts.CORPUS, title="tokens cached"),
        description=f"Tokens cached from {_time(first)} to {_time(last)}, {findings.totals['n_tokens']:,} in all.",
        table=_growth_table(findings),
    )


def _time_format(findings: Findings) -> str:
    """As much of a time as tells the ticks apart."""
    seconds = (findings.growth[-1]["committed_at"] - findings.growth[0]["began_at"]).total_seconds()
    spans = ((600, "%H:%M:%S"), (86_400, "%H:%M"), (3 * 86_400, "%d %b %H:%M"), (300 * 86_400, "%d %b"))
    return next((form for longest, form in spans if seconds < longest), "%b %Y")


def _growth_table(findings: Findings) -> Table:
    """By day: a long history stays readable."""
    days: dict[tuple[str, str, str], int] = {}
    for row in findings.growth:
        key = (f"{row['committed_at']:%Y-%m-%d}", row["recipe_id"], row["corpus"])
        days[key] = days.get(key, 0) + row["n_tokens"]
    rows = [
        Row(cells=[day, findings.names[recipe], corpus, tokens], recipes=(recipe,), corpus=corpus)
        for (day, recipe, corpus), tokens in days.items()
    ]
    return Table(caption="Tokens added by day", columns=["day (UTC)", "recipe", "corpus", "tokens"], rows=rows)


def _contents(findings: Findings) -> Table:
    names = ("n_documents", "n_sources", "n_tokens", "n_targets", "entropy", "surprise")
    rows = [
        Row(
            cells=[findings.names[row["recipe_id"]], row["corpus"], *(row[name] for name in names)],
            recipes=(row["recipe_id"],),
            corpus=row["corpus"],
        )
        for row in findings.by_corpus
    ]
    columns = ["recipe", "corpus", "documents", "sources", "tokens", "targets", "entropy, nats", "surprise, nats"]
    return Table(caption="By recipe and corpus", columns=columns, rows=rows)


def _runs(findings: Findings) -> Table:
    rows = [
        Row(
            cells=[
                _time(row["started_at"]),
                row["kind"],
                row["status"],
                "–" if row["seconds"] is None else duration_text(row["seconds"]),
                int(row["n_documents"]),
                int(row["n_tokens"]),
                duration_text(row["teacher_seconds"]) if row["teacher_seconds"] else "–",
            ],
            recipes=(row["recipe_id"],) if row["recipe_id"] else (),
        )
        for row in findings.runs
    ]
    columns = ["started (UTC)", "run", "status", "took", "documents", "tokens", "teacher time"]
    return Table(caption="The latest runs", columns=columns, rows=rows)


def _time(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M}"
