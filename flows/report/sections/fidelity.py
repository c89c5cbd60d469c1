"""How close the cache is to the teacher, by recipe, and how well the teacher is calibrated."""

from collections import defaultdict
from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Row, Section, Table
from logitlake.flows.report.charts import share_chart
from logitlake.flows.report.findings import Findings, about_the_sample
from logitlake.storage.answers.report.fidelity import CALIBRATION_BINS

_MOST_ENTRIES = 40


def fidelity_section(findings: Findings) -> Section | None:
    """Stored entries of a distribution, noise of sampling and rounding, and the teacher's calibration."""
    if not findings.entries:
        return None
    lead = (
        "Of each distribution some ids are stored with their own probability (heads); others share the residual mass "
        "equally (tails). With an unbiased sparsifier the expected value of every cached probability is the teacher's "
        "probability: the error is noise, which averages out over a batch. E‖p̂ − p‖² is the squared distance between "
        "cached and teacher's distribution: an upper bound for drawn tails, an unbiased estimate for independent "
        "draws. Where the tail was cut off the lost mass is a bias, which does not average out. "
        f"{about_the_sample(findings.sample)}"
    )
    if served := [row for row in findings.entries if row["served_as"] is not None]:
        named = ", ".join(f"{findings.names[row['recipe_id']]} ({row['served_as']})" for row in served)
        lead += (
            f" Known only by a name on a server, which may have changed the weights behind it: the teacher of {named}."
        )
    blocks: list[Chart | Table] = [_table(findings), _entries(findings)]
    if findings.calibration:
        blocks.append(_calibration(findings))
    return Section(key="fidelity", title="Fidelity of the cache", lead=lead, blocks=blocks)


def _table(findings: Findings) -> Table:
    names = ("entries", "heads", "tails", "entries_p99", "levels", "residual_mass", "noise")
    rows = [
        Row(
            cells=[
                findings.names[row["recipe_id"]],
                _unbiased(row),
                *(row[name] for name in names),
            ],
            recipes=(row["recipe_id"],),
        )
        for row in findings.entries
    ]
    columns = [
        *("recipe", "unbiased", "entries", "heads", "tails", "99% have at most"),
        *("levels", "residual mass", "E‖p̂ − p‖²"),
    ]
    return Table(caption="Means per position, by recipe", columns=columns, rows=rows)


def _unbiased(row: dict[str, Any]) -> str:
    if row["teacher_gives"] == "top_k":
        return "no: the engine gives only the most probable ids"
    return {True: "yes", False: "no", None: "not known"}[row["unbiased"]]


def _entries(findings: Findings) -> Chart:
    rows: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "name": findings.names[row["recipe_id"]], "corpus": row["corpus"], "n": row["n"]}
        | {
            "bin": row["entries"] - 0.5,
            "label": f"{row['entries']}{' and more' if row['entries'] == _MOST_ENTRIES else ''}",
        }
        for row in findings.entry_counts
    ]
    most = max(row["entries"] for row in findings.entry_counts)
    summary = "; ".join(
        f"{findings.names[row['recipe_id']]}: mean {row['entries']:.1f}, 99% have at most {row['entries_p99']:.0f}"
        for row in findings.entries
    )
    table = Table(
        caption="Positions by stored entries",
        columns=["recipe", "corpus", "entries", "positions"],
        rows=[
            Row(
                cells=[findings.names[row["recipe_id"]], row["corpus"], row["entries"], row["n"]],
                recipes=(row["recipe_id"],),
                corpus=row["corpus"],
            )
            for row in findings.entry_counts
        ],
    )
    return Chart(
        key="entries",
        title="Stored entries: few where the teacher is certain, more where it is not",
        spec=share_chart(
            rows,
            title="stored ids per position",
            width=1,
            end=most + 1,
            names=list(findings.names.values()),
            unit="entries",
        ),
        description=f"Share of positions by the number of stored ids. {summary}.",
        table=table,
    )


def _calibration(findings: Findings) -> Chart:
    rows: list[dict[str, Any]] = [
        {
            "recipe": row["recipe_id"],
            "name": findings.names[row["recipe_id"]],
            "corpus": row["corpus"],
            "bin": row["bin"],
        }
        | {"n": row["n"], "confident": row["confident"], "right": row["n_right"]}
        for row in findings.calibration
    ]
    points = (
        charts.chart(rows, charts.RECIPE, charts.CORPUS)
        .transform_aggregate(n="sum(n)", confident="sum(confident)", right="sum(right)", groupby=["name", "bin"])
        .transform_calculate(confidence="datum.confident / datum.n", accuracy="datum.right / datum.n")
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x=_share_axis("confidence:Q", "probability of the teacher's most likely token"),
            y=_share_axis("accuracy:Q", None, tick_count=5),
            size=alt.Size("n:Q", scale=alt.Scale(range=[30, 260]), legend=None),
            color=charts.colour_by_name(list(findings.names.values())),
            tooltip=[
                alt.Tooltip("name:N", title="recipe"),
                alt.Tooltip("confidence:Q", title="probability", format=".1%"),
                alt.Tooltip("accuracy:Q", title="correct", format=".1%"),
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
        title="Calibration: on the dashed line, probability equals accuracy",
        spec=charts.specification(
            line + points, charts.RECIPE, charts.CORPUS, title="share of correct predictions", height=300
        ),
        description="How often the teacher's most likely token was the real one, by its probability. "
        + " ".join(_summary(findings)),
        table=_calibration_table(findings),
        note="Positions without a head, and recipes with random draws, are left out: they store no most likely token. "
        "Larger points stand for more positions.",
    )


def _share_axis(field: str, title: str | None, tick_count: int = 6) -> Any:
    kind = alt.X if field.startswith("confidence") else alt.Y
    return kind(field, title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=tick_count))


def _summary(findings: Findings) -> list[str]:
    """The expected calibration error of each recipe: Σ over bins of |confidence - accuracy| (Guo et al. 2017)."""
    bins: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    for row in findings.calibration:
        for number, name in enumerate(("n", "confident", "n_right")):
            bins[row["recipe_id"]][row["bin"]][number] += row[name]
    errors = {
        recipe_id: sum(abs(confident - right) for _, confident, right in values.values())
        / sum(n for n, _, _ in values.values())
        for recipe_id, values in bins.items()
    }
    return [f"{findings.names[recipe_id]}: calibration error {error:.1%}." for recipe_id, error in errors.items()]


def _calibration_table(findings: Findings) -> Table:
    rows = [
        Row(
            cells=[
                findings.names[row["recipe_id"]],
                row["corpus"],
                f"{row['bin'] / CALIBRATION_BINS:.0%} to {(row['bin'] + 1) / CALIBRATION_BINS:.0%}",
                row["n"],
                row["confident"] / row["n"],
                row["n_right"] / row["n"],
            ],
            recipes=(row["recipe_id"],),
            corpus=row["corpus"],
        )
        for row in findings.calibration
    ]
    columns = ["recipe", "corpus", "probability of the most likely token", "positions", "mean probability", "correct"]
    return Table(caption="Calibration of the teacher", columns=columns, rows=rows)
