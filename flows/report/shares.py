"""A histogram by recipe: bars for one recipe, a line each for several, shares that follow the filters."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from logitlake.flows.report import charts

_BAR_GAP = 0.08


def share_chart(
    rows: Sequence[Mapping[str, Any]], *, title: str, width: float, end: float, names: Sequence[str], unit: str
) -> dict[str, Any]:
    """Vega-Lite of rows with `recipe`, `name`, `corpus`, `bin` (its low end), `label` and `n`.

    Bins are `width` wide; the axis, called `title`, goes from 0 to `end`.
    """
    shares = (
        charts.chart(rows, charts.RECIPE, charts.CORPUS)
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
    axis = {
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
    shared: dict[str, Any] = {"color": charts.colour_by_name(names), "tooltip": tooltip}
    if len(names) < 2:
        bars = shares.mark_bar(cornerRadius=1)
        made = bars.encode(x=alt.X("low:Q", **axis), x2="high:Q", y=y, y2="floor:Q", **shared)
    else:
        lines = shares.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30, filled=True))
        made = lines.encode(x=alt.X("middle:Q", **axis), y=y, **shared)
    return charts.specification(made, charts.RECIPE, charts.CORPUS, title="share of positions", height=220)
