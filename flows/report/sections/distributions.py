"""The teacher's entropy before a token, and its surprise at the token."""

from typing import Any

from logitlake.flows.report.blocks import Chart, Row, Section, Table
from logitlake.flows.report.charts import share_chart
from logitlake.flows.report.findings import Findings, about_the_sample
from logitlake.storage.answers.report.distributions import BIN_NATS, LAST_BIN_NATS

_MEASURES = {
    "entropy": "Entropy: how uncertain the teacher was before the token",
    "surprise": "Surprise: minus the log-probability of the real token",
}
_QUANTILES = ("mean", "p10", "median", "p90", "p99")


def distributions_section(findings: Findings) -> Section | None:
    """A histogram and its quantiles for each measure."""
    if not findings.histograms:
        return None
    lead = (
        "Where entropy is near zero the teacher is certain of the next token, and its distribution adds little to that "
        "token; where entropy is high, the distribution adds much. If the teacher fits the text, mean surprise equals "
        f"mean entropy. {about_the_sample(findings.sample)}"
    )
    measured = {row["measure"] for row in findings.histograms}
    blocks = [_chart(findings, measure, title) for measure, title in _MEASURES.items() if measure in measured]
    return Section(key="distributions", title="Entropy and surprise", lead=lead, blocks=blocks)


def _chart(findings: Findings, measure: str, title: str) -> Chart:
    rows: list[dict[str, Any]] = [
        {"recipe": row["recipe_id"], "name": findings.names[row["recipe_id"]], "corpus": row["corpus"]}
        | {"bin": row["bin"], "label": _bin(row["bin"]), "n": row["n"]}
        for row in findings.histograms
        if row["measure"] == measure
    ]
    quantiles = [row for row in findings.quantiles if row["measure"] == measure]
    summary = "; ".join(
        f"{findings.names[row['recipe_id']]} on {row['corpus']}: mean {row['mean']:.2f}, median {row['median']:.2f}, "
        f"10% above {row['p90']:.2f} nats"
        for row in quantiles
    )
    return Chart(
        key=measure,
        title=title,
        spec=share_chart(
            rows,
            title="nats",
            width=BIN_NATS,
            end=LAST_BIN_NATS + BIN_NATS,
            names=list(findings.names.values()),
            unit="nats",
        ),
        description=f"Share of positions by {measure} in bins of half a nat. {summary}.",
        table=_table(findings, quantiles, measure),
    )


def _table(findings: Findings, quantiles: list[dict[str, Any]], measure: str) -> Table:
    rows = [
        Row(
            cells=[findings.names[row["recipe_id"]], row["corpus"], row["n"], *(row[name] for name in _QUANTILES)],
            recipes=(row["recipe_id"],),
            corpus=row["corpus"],
        )
        for row in quantiles
    ]
    columns = ["recipe", "corpus", "positions", "mean", "10% below", "median", "90% below", "99% below"]
    return Table(caption=f"{measure.capitalize()} in nats", columns=columns, rows=rows)


def _bin(low: float) -> str:
    return f"{low:g} and more" if low >= LAST_BIN_NATS else f"{low:g} to {low + BIN_NATS:g}"
