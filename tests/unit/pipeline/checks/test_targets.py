"""Stored targets against dense ones: every sparsifier passes, and each kind of damage is found."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.checks.outcome import Outcome
from logitlake.pipeline.checks.targets import targets_outcomes
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.targets.sparsifiers.random_draws import RandomSettings
from logitlake.pipeline.targets.sparsifiers.top_k import TopKSettings
from logitlake.pipeline.targets.sparsifiers.top_p import TopPSettings
from logitlake.pipeline.targets.sparsifiers.varopt import VarOptSettings
from logitlake.pipeline.tokens.sequences import TokenSequence

VOCABULARY, LENGTHS = 300, (90, 70, 110)
NAMES = ("c/a:1", "c/a:2", "c/a:3")


class Dense:
    """An engine of fixed logits: each position has its own, sharp and flat ones by turns."""

    vocab_size, device, description = VOCABULARY, torch.device("cpu"), {"dtype": "float32"}

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        scale = rng.choice([0.3, 2.0, 6.0], (sum(LENGTHS), 1))
        self.logits = torch.from_numpy((rng.normal(size=(sum(LENGTHS), VOCABULARY)) * scale).astype(np.float32))

    def forward(self, input_ids: Any, has_target: Any) -> Any:
        yield self.logits[torch.from_numpy(np.concatenate(has_target))]


def sequences() -> list[TokenSequence]:
    rng = np.random.default_rng(1)
    made = []
    for number, length in enumerate(LENGTHS):
        has_target = rng.random(length) < 0.9
        has_target[-1] = False
        ids = rng.integers(0, VOCABULARY, length).astype(np.int32)
        made.append(TokenSequence(f"{number:032x}", 0, 0, ids, has_target))
    return made


def rows_of(settings: TargetSettings, engine: Dense) -> pa.Table:
    batch = sequences()
    (coded,), statistics = batch_targets(
        engine,  # type: ignore[arg-type]
        batch,
        [make_sparsifier(settings)],
        temperature=settings.temperature,
        seed=settings.seed,
    )
    origin = RowOrigin(recipe_id="r" * 32, corpora=["c"] * 3, sources=["a"] * 3)
    return encode_rows(batch, coded, statistics, origin, nll_steps_per_nat=settings.logprob_steps_per_nat)


def dense(engine: Dense) -> np.ndarray:
    mask = torch.from_numpy(np.concatenate([sequence.has_target for sequence in sequences()]))
    return engine.logits[mask].double().log_softmax(-1).numpy()


def judged(rows: pa.Table, settings: TargetSettings) -> dict[str, Outcome]:
    found = targets_outcomes(NAMES, sequences(), rows, dense(Dense()), settings)
    return {outcome.check: outcome for outcome in found}


def changed(rows: pa.Table, name: str, change: Any) -> pa.Table:
    at = rows.schema.get_field_index(name)
    values = [change(value) for value in rows[name].to_pylist()]
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (VarOptSettings, {}),
        (VarOptSettings, {"threshold": 0.002, "logprob_steps_per_nat": 1024}),
        (VarOptSettings, {"threshold": 0.5, "levels": 7, "seed": 3}),
        (RandomSettings, {"draws": 12}),
        (TopKSettings, {"k": 5}),
        (TopPSettings, {"p": 0.9}),
    ],
)
def test_targets_of_every_sparsifier_pass(kind: type[TargetSettings], given: Any, temperature: float) -> None:
    settings = kind(**given, temperature=temperature)
    found = judged(rows_of(settings, Dense()), settings)
    assert {name: (o.result, o.detail) for name, o in found.items()} == dict.fromkeys(found, ("pass", ""))
    assert ("target mean" in found) == settings.facts.unbiased
    assert ("target heads" in found) == (settings.facts.heads == "probabilities")


def test_targets_of_another_temperature_differ_in_heads_and_mean() -> None:
    hot = rows_of(VarOptSettings(temperature=1.5), Dense())
    found = judged(hot, VarOptSettings())
    assert (found["target heads"].result, found["target mean"].result) == ("differs", "differs")
    assert found["target heads"].detail in NAMES
    assert "nats from the entropy" in found["target mean"].detail


def test_targets_that_are_shifted_by_one_position_differ() -> None:
    rows = rows_of(VarOptSettings(), Dense())
    shifted = dense(Dense())
    found = {
        o.check: o for o in targets_outcomes(NAMES, sequences(), rows, np.roll(shifted, 1, axis=0), VarOptSettings())
    }
    assert {found[name].result for name in ("target heads", "target mean", "statistics")} == {"differs"}


def test_a_truncation_that_calls_itself_unbiased_differs_in_its_mean() -> None:
    class Claimed(TopKSettings):
        facts = VarOptSettings.facts

    settings = Claimed(k=5)
    assert judged(rows_of(settings, Dense()), settings)["target mean"].result == "differs"


def test_a_most_probable_id_that_is_no_head_differs() -> None:
    settings = TopKSettings(k=5)
    rows = rows_of(settings, Dense())
    rows = changed(rows, "target_ids", lambda row: [ids[1:] for ids in row])
    rows = changed(rows, "head_codes", lambda row: [codes[1:] for codes in row])
    assert judged(rows, settings)["target heads"].result == "differs"


def test_tails_that_are_drawn_evenly_differ_in_their_mean() -> None:
    settings = VarOptSettings()
    rows = rows_of(settings, Dense())
    heads = rows["head_codes"].to_pylist()
    rng = np.random.default_rng(0)
    drawn = [
        [
            ids[: len(codes)] + rng.integers(0, VOCABULARY, len(ids) - len(codes)).tolist()
            for ids, codes in zip(*row, strict=True)
        ]
        for row in zip(rows["target_ids"].to_pylist(), heads, strict=True)
    ]
    at = rows.schema.get_field_index("target_ids")
    even = rows.set_column(at, rows.schema.field(at), pa.array(drawn, rows.schema.field(at).type))
    found = judged(even, settings)
    assert (found["target mean"].result, found["target heads"].result) == ("differs", "pass")


def test_an_entry_without_a_target_differs_in_the_sums() -> None:
    settings = VarOptSettings()
    rows = changed(rows_of(settings, Dense()), "target_ids", lambda row: [*row[:-1], [3]])
    assert judged(rows, settings)["target sums"].result == "differs"


def test_statistics_of_another_model_differ() -> None:
    settings = VarOptSettings()
    rows = changed(rows_of(settings, Dense()), "nll_codes", lambda row: [None if c is None else c + 2 for c in row])
    found = judged(rows, settings)
    assert {name for name, outcome in found.items() if outcome.result == "differs"} == {"statistics"}
