"""How near the cache is to the teacher, recipe by recipe, and how far the teacher is to be believed."""

from collections import defaultdict
from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Row, Section, Table
from logitlake.flows.report.charts import share_chart
from logitlake.flows.report.findings import Findings, about_the_sample
from logitlake.storage.answers.report.fidelity import CALIBRATION_BINS

_MOST_ENTRIES = 40


def fidelity_section(found: Findings) -> Section | None:
    """What is kept of a distribution, the noise that sampling and rounding leave, and the teacher's calibration."""
    if not found.entries:
        return None
    lead = (
        "Of each distribution some ids are kept with their own probability (heads), and others share the rest of the "
        "mass equally (tails). With an unbiased sparsifier the expectation of every cached probability is the "
        "teacher's: what is left is noise, which averages out over a batch. E‖p̂ − p‖² is the squared distance between "
        "the cached and the teacher's distribution: a bound worked out from the cache for drawn tails, an unbiased "
        "estimate for independent draws. Where the tail was cut off the lost mass is a bias, which does not "
        f"average out. {about_the_sample(found.sample)}"
    )
    blocks: list[Chart | Table] = [_table(found), _entries(found)]
    if found.calibration:
        blocks.append(_calibration(found))
    return Section(key="fidelity", title="Fidelity of the cache", lead=lead, blocks=blocks)


def _table(found: Findings) -> Table:
    names = ("entries", "heads", "tails", "entries_p99", "levels", "residual_mass", "noise")
    rows = [
        Row(
            cells=[
                found.names[row["recipe_id"]],
                {True: "yes", False: "no", None: "not known"}[row["unbiased"]],
                *(row[name] for name in names),
            ],
            recipes=(row["recipe_id"],),
        )
        for row in found.entries
    ]
    columns = [
        *("recipe", "unbiased", "entries", "heads", "tails", "99% have at most"),
        *("levels", "residual mass", "E‖p̂ − p‖²"),
    ]
    return Table(caption="Means per position, by recipe", columns=columns, rows=rows)


def _entries(found: Findings) -> Chart:
    rows: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "name": found.names[row["recipe_id"]], "corpus": row["corpus"], "n": row["n"]}
        | {
            "bin": row["entries"] - 0.5,
            "label": f"{row['entries']}{' and more' if row['entries'] == _MOST_ENTRIES else ''}",
        }
        for row in found.entry_counts
    ]
    most = max(row["entries"] for row in found.entry_counts)
    said = "; ".join(
        f"{found.names[row['recipe_id']]}: {row['entries']:.1f} on average, 99% have at most {row['entries_p99']:.0f}"
        for row in found.entries
    )
    table = Table(
        caption="Positions by entries kept",
        columns=["recipe", "corpus", "entries", "positions"],
        rows=[
            Row(
                cells=[found.names[row["recipe_id"]], row["corpus"], row["entries"], row["n"]],
                recipes=(row["recipe_id"],),
                corpus=row["corpus"],
            )
            for row in found.entry_counts
        ],
    )
    return Chart(
        key="entries",
        title="Entries kept: few where the teacher is sure, more where it is not",
        spec=share_chart(
            rows,
            title="ids kept of a position's distribution",
            width=1,
            end=most + 1,
            names=list(found.names.values()),
            unit="entries",
        ),
        description=f"Share of positions by the number of ids kept. {said}.",
        table=table,
    )


def _calibration(found: Findings) -> Chart:
    rows: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "name": found.names[row["recipe_id"]], "corpus": row["corpus"], "bin": row["bin"]}
        | {"n": row["n"], "confident": row["confident"], "right": row["n_right"]}
        for row in found.calibration
    ]
    points = (
        charts.chart(rows, charts.RECIPE, charts.CORPUS)
        .transform_aggregate(n="sum(n)", confident="sum(confident)", right="sum(right)", groupby=["name", "bin"])
        .transform_calculate(confidence="datum.confident / datum.n", accuracy="datum.right / datum.n")
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x=_share_axis("confidence:Q", "how sure the teacher was of its likeliest token"),
            y=_share_axis("accuracy:Q", None, tick_count=5),
            size=alt.Size("n:Q", scale=alt.Scale(range=[30, 260]), legend=None),
            color=charts.colour_by_name(list(found.names.values())),
            tooltip=[
                alt.Tooltip("name:N", title="recipe"),
                alt.Tooltip("confidence:Q", title="sure by", format=".1%"),
                alt.Tooltip("accuracy:Q", title="right in", format=".1%"),
                alt.Tooltip("n:Q", title="positions", format=","),
            ],
        )
    )
    line = (
        alt.Chart(charts.data([{"at": 0}, {"at": 1}]))
        .mark_line(strokeDash=[4, 4], strokeWidth=1, color=charts.MUTED)
        .encode(x="at:Q", y="at:Q")
    )
    return Chart(
        key="calibration",
        title="Calibration: a teacher on the dashed line is right as often as it says",
        spec=charts.specification(
            line + points, charts.RECIPE, charts.CORPUS, title="how often it was right", height=300
        ),
        description="How often the teacher's likeliest token was the real one, against the probability it gave to it. "
        + " ".join(_said(found)),
        table=_calibration_table(found),
        note="Positions without a head, or whose recipe draws at random, do not say which token was the likeliest. "
        "Larger points stand for more positions.",
    )


def _share_axis(field: str, title: str | None, tick_count: int = 6) -> Any:
    kind = alt.X if field.startswith("confidence") else alt.Y
    return kind(field, title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=tick_count))


def _said(found: Findings) -> list[str]:
    """The expected calibration error of each recipe: Σ over bins of |confidence - accuracy| (Guo et al. 2017)."""
    bins: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    for row in found.calibration:
        for number, name in enumerate(("n", "confident", "n_right")):
            bins[row["recipe_id"]][row["bin"]][number] += row[name]
    errors = {
        recipe_id: sum(abs(confident - right) for _, confident, right in values.values())
        / sum(n for n, _, _ in values.values())
        for recipe_id, values in bins.items()
    }
    return [f"{found.names[recipe_id]}: off by {error:.1%} on average." for recipe_id, error in errors.items()]


def _calibration_table(found: Findings) -> Table:
    rows = [
        Row(
            cells=[
                found.names[row["recipe_id"]],
                row["corpus"],
                f"{row['bin'] / CALIBRATION_BINS:.0%} to {(row['bin'] + 1) / CALIBRATION_BINS:.0%}",
                row["n"],
                row["confident"] / row["n"],
                row["n_right"] / row["n"],
            ],
            recipes=(row["recipe_id"],),
            corpus=row["corpus"],
        )
        for row in found.calibration
    ]
    columns = ["recipe", "corpus", "probability of the likeliest token", "positions", "mean of it", "right in"]
    return Table(caption="Calibration of the teacher", columns=columns, rows=rows)
