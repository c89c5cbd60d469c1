"""Bytes per token, beside published systems."""

from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Figure, Row, Section, Table
from logitlake.flows.report.findings import Findings
from logitlake.flows.report.peers import PEERS

_ROW_PIXELS = 38


def size_section(findings: Findings) -> Section | None:
    """One line for each recipe of this lake and each published system, on one scale."""
    ours = [row for row in findings.recipes if row["bytes_per_token"]]
    if not ours:
        return None
    best = min(row["bytes_per_token"] for row in ours)
    smallest = min(peer.low for peer in PEERS)
    compared = f", {smallest / best:.1f} times less than the smallest published system" if best < smallest else ""
    lead = (
        f"A cached token takes {best:.1f} bytes on disk{compared}. This is the whole Parquet file: the teacher's "
        "targets, the token, entropy and surprise, ids and checksums. The published numbers are for targets alone, as "
        "published or computed from the format."
    )
    figures = [Figure(value=f"{best:.1f}", label="bytes per token in all")]
    return Section(key="size", title="Bytes per token", lead=lead, figures=figures, blocks=[_chart(findings, ours)])


def _chart(findings: Findings, ours: list[dict[str, Any]]) -> Chart:
    lines: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "label": f"This lake: {findings.names[row['recipe_id']]}"}
        | {"low": row["bytes_per_token"], "high": row["bytes_per_token"], "kind": "this lake", "source": "measured"}
        for row in ours
    ]
    lines += [
        {
            "recipe": None,
            "label": peer.name,
            "low": peer.low,
            "high": peer.high,
            "kind": "published",
            "source": peer.source,
        }
        for peer in PEERS
    ]
    lines.sort(key=lambda line: line["low"])
    for line in lines:
        line["value"] = _range(line["low"], line["high"])
    base = charts.chart(lines, charts.RECIPE).encode(
        y=alt.Y("label:N", sort=None, axis=None),
        x=alt.X(
            "low:Q",
            scale=alt.Scale(type="log", domain=[min(8, lines[0]["low"]), 10_000]),
            title="bytes per token (logarithmic scale)",
            axis=alt.Axis(values=[10, 100, 1000, 10_000], format=",", grid=True),
        ),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=["this lake", "published"], range=[charts.ACCENT, charts.MUTED]),
            legend=None,
        ),
        tooltip=[
            alt.Tooltip("label:N", title="system"),
            alt.Tooltip("value:N", title="bytes per token"),
            alt.Tooltip("source:N", title="source"),
        ],
    )
    shown = alt.layer(
        base.mark_rule(strokeWidth=4, strokeCap="round").encode(x2="high:Q"),
        base.mark_point(filled=True, size=90, opacity=1),
        base.mark_text(align="left", dx=10).encode(x="high:Q", text="value:N", color=alt.value(charts.INK)),
        base.mark_text(align="left", dy=-14, limit=charts.WHOLE_WIDTH).encode(
            x=alt.value(0), text="label:N", color=alt.value(charts.INK)
        ),
    )
    nearest = ", ".join(f"{line['label']} {line['value']}" for line in lines)
    table = Table(
        caption="Bytes per token",
        columns=["system", "bytes per token", "source"],
        rows=[
            Row(
                cells=[line["label"], line["value"], line["source"]],
                recipes=(line["recipe"],) if line["recipe"] else (),
            )
            for line in lines
        ],
    )
    return Chart(
        key="bytes",
        title="Beside published systems",
        spec=charts.specification(shown, charts.RECIPE, height=_ROW_PIXELS * len(lines)),
        description=f"Bytes per token on a logarithmic scale, from least to most: {nearest}.",
        table=table,
    )


def _range(low: float, high: float) -> str:
    text = f"{low:,.1f}" if low < 100 and low % 1 else f"{low:,.0f}"
    return text if low == high else f"{text} to {high:,.0f}"
