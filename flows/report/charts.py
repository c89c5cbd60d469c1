"""The style of every chart, and the two filters. Colours are CSS variables, which follow the page's theme."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import altair as alt

COLOURS = [f"var(--series-{number})" for number in range(1, 7)]

ACCENT, MUTED, INK = "var(--series-1)", "var(--muted)", "var(--ink)"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

# For text that starts at the left edge: cut where the chart ends, however narrow it is.
WHOLE_WIDTH = alt.ExprRef("width")

# Names of the signals that the page sets; empty means all.
RECIPE, CORPUS = "shown_recipe", "shown_corpus"

_FILTER_FIELDS = {RECIPE: "recipe", CORPUS: "corpus"}


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as they go into the page; times as milliseconds."""
    plain = [
        {key: value.timestamp() * 1000 if isinstance(value, datetime) else value for key, value in row.items()}
        for row in rows
    ]
    return alt.InlineData(values=plain)


def chart(rows: Sequence[Mapping[str, Any]], *filters: str) -> alt.Chart:
    """A chart of rows that the page's filters apply to (RECIPE compares with the field `recipe`, CORPUS with `corpus`).

    A row without a value for a filter is always shown.
    """
    made = alt.Chart(data(rows))
    for name in filters:
        field = _FILTER_FIELDS[name]
        made = made.transform_filter(f"{name} === '' || datum.{field} == null || datum.{field} === {name}")
    return made


def colour_by_name(names: Sequence[str]) -> alt.Color:
    """Series in the page's colours, a name always in the same one whatever is shown; no legend for one name."""
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=250, symbolType="circle")
    scale = alt.Scale(domain=list(names), range=COLOURS)
    return alt.Color("name:N", scale=scale, legend=legend if len(names) > 1 else None)


def specification(made: Any, *filters: str, title: str = "", height: int = 260) -> dict[str, Any]:
    """The finished Vega-Lite: as wide as its place, with the filters' signals and the page's style.

    `title` is that of the y axis: it stands above the legend, where it has room.
    """
    sized = made.properties(width="container", height=height, background="transparent", padding=2)
    if title:
        sized = sized.properties(title=alt.Title(title, **_AXIS_TITLE))
    sized = sized.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    for name in filters:
        sized = sized.add_params(alt.param(name=name, value=""))
    spec: dict[str, Any] = sized.configure(**_LOOKS).to_dict()
    # The schema's address is for editors; the page names no foreign address.
    spec.pop("$schema", None)
    return spec


_AXIS_TITLE: dict[str, Any] = {
    "anchor": "start",
    "frame": "bounds",
    "color": MUTED,
    "font": FONT,
    "fontSize": 12,
    "fontWeight": 400,
    "offset": 10,
}

_LOOKS: dict[str, Any] = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": 400,
        "titleFontSize": 12,
        "labelFontSize": 12,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titlePadding": 8,
        "labelOverlap": True,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False, "title": None},
    "legend": {"labelColor": INK, "labelFontSize": 12},
    "text": {"color": INK, "fontSize": 12, "font": FONT},
    "range": {"category": COLOURS},
}

_BAR_GAP = 0.08


def share_chart(
    rows: Sequence[Mapping[str, Any]], *, title: str, width: float, end: float, names: Sequence[str], unit: str
) -> dict[str, Any]:
    """Vega-Lite of rows with `recipe`, `name`, `corpus`, `bin` (its low end), `label` and `n`.

    Bins are `width` wide; the axis, called `title`, goes from 0 to `end`.
    """
    shares = (
        chart(rows, RECIPE, CORPUS)
        .transform_aggregate(n="sum(n)", groupby=["name", "bin", "label"])
        .transform_joinaggregate(all="sum(n)", groupby=["name"])
        .transform_calculate(
            share="datum.n / datum.all",
            floor="0",
            middle=f"datum.bin + {width / 2}",
            low=f"datum.bin + {width * _BAR_GAP / 2}",
            high=f"datum.bin + {width * (1 - _BAR_GAP / 2)}",
        )
    )
    axis: dict[str, Any] = {
        "title": title,
        "scale": alt.Scale(domain=[0, end], nice=False),
        "axis": alt.Axis(format="d", tickMinStep=1),
    }
    y = alt.Y("share:Q", title=None, axis=alt.Axis(format=".0%", tickCount=4))
    tooltip = [
        alt.Tooltip("name:N", title="recipe"),
        alt.Tooltip("label:N", title=unit),
        alt.Tooltip("share:Q", title="share", format=".2%"),
        alt.Tooltip("n:Q", title="positions", format=","),
    ]
    shared: dict[str, Any] = {"color": colour_by_name(names), "tooltip": tooltip}
    if len(names) < 2:
        bars = shares.mark_bar(cornerRadius=1)
        made = bars.encode(x=alt.X("low:Q", **axis), x2="high:Q", y=y, y2="floor:Q", **shared)
    else:
        lines = shares.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30, filled=True))
        made = lines.encode(x=alt.X("middle:Q", **axis), y=y, **shared)
    return specification(made, RECIPE, CORPUS, title="share of positions", height=220)
