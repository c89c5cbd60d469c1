"""All data of the page, read from the lake at once; the sections only select and arrange it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from logitlake.storage.answers.report import distributions, fidelity, holdings
from logitlake.storage.answers.report.passages import Passage, passages, token_texts
from logitlake.storage.answers.report.sample import POSITIONS, Sample, take_sample
from logitlake.storage.answers.report.students import hardest_documents, students
from logitlake.storage.lake.lake import Lake

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The answers of `logitlake.storage.answers.report`, each as rows; `names` are those of the recipes by id."""

    lake: str
    written_at: datetime
    held_out_share: float
    totals: dict[str, Any]
    names: Mapping[str, str]
    sample: Sample
    recipes: Rows
    by_corpus: Rows
    growth: Rows
    runs: Rows
    histograms: Rows
    quantiles: Rows
    entries: Rows
    entry_counts: Rows
    calibration: Rows
    students: Rows
    hardest: Rows
    passages: list[Passage]
    token_texts: Mapping[tuple[str, int], str]

    @property
    def corpora(self) -> list[str]:
        return sorted({row["corpus"] for row in self.by_corpus})


def find_out(lake: Lake, *, positions: int = POSITIONS) -> Findings:
    """Read all data; at most `positions` positions are read one by one."""
    sample = take_sample(lake, positions=positions)
    recipes = holdings.recipes(lake).to_pylist()
    names = recipe_names(recipes)
    order = list(names)

    def by_recipe(table: pa.Table) -> Rows:
        """Rows in the recipes' order, within a recipe in their own."""
        return sorted(table.to_pylist(), key=lambda row: order.index(row["recipe_id"]))

    chosen = sorted(passages(lake), key=lambda passage: order.index(passage.recipe_id))
    directory = lake.location.state_directory
    return Findings(
        lake=directory.name if directory else "lake",
        written_at=datetime.now(UTC),
        held_out_share=lake.held_out_share,
        totals=holdings.totals(lake),
        names=names,
        sample=sample,
        recipes=recipes,
        by_corpus=by_recipe(holdings.by_corpus(lake)),
        growth=holdings.growth(lake).to_pylist(),
        runs=holdings.latest_runs(lake).to_pylist(),
        histograms=by_recipe(distributions.histograms(lake)),
        quantiles=by_recipe(distributions.quantiles(lake)),
        entries=by_recipe(fidelity.entries(lake)),
        entry_counts=by_recipe(fidelity.entry_counts(lake)),
        calibration=by_recipe(fidelity.calibration(lake)),
        students=students(lake),
        hardest=hardest_documents(lake),
        passages=chosen,
        token_texts=token_texts(lake, chosen),
    )


def recipe_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By recipe id: teacher and sparsifier, and the beginning of the id where two would have the same name."""
    names = {row["recipe_id"]: _name(json.loads(row["recipe"])) for row in rows}
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} ({key[:8]})" for key, name in names.items()}


def _name(recipe: Mapping[str, Any]) -> str:
    sparsifier = recipe["sparsifier"]
    settings = [f"{key} = {value}" for key, value in sparsifier.items() if key != "name"]
    return ", ".join([recipe["teacher"]["name"], " ".join([sparsifier["name"], *settings])])


def about_the_sample(sample: Sample) -> str:
    """One sentence: which positions the numbers are counted over."""
    if sample.whole:
        return f"Counted over all {sample.n_positions:,} positions."
    return (
        f"Counted over {sample.n_positions:,} of {sample.n_all_positions:,} positions: the {sample.n_units:,} of "
        f"{sample.n_all_units:,} work units whose ids have the smallest SHA-256, so always the same ones."
    )
