"""What a capture was expected to take, kept with it and compared with what it took."""

import json
import threading
from typing import Any

import pytest

from logitlake.flows.capture.estimate import spread_of
from logitlake.flows.capture.plan_count import PlanCount
from logitlake.flows.capture.preparation import prepare
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.settings import location_of
from logitlake.flows.terminal.comparison import compared
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.history import earlier_estimates
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.runs import find_run

EXPECTED = {"tokens_per_second": 100.0, "bytes_per_token": 20.0, "price_per_hour": 3.6, "tokens": 1000}
TOOK = {"n_tokens": 500, "n_bytes": 5000, "teacher_seconds": 10.0, "seconds": 20.0}


def run_of(config: Config, run_id: str) -> dict[str, Any]:
    with Lake.open(location_of(config)) as lake:
        return find_run(lake, run_id)


def test_what_was_expected_is_compared_for_the_tokens_that_were_computed() -> None:
    rows = {row["quantity"]: (row["expected"], row["took"], row["ratio"]) for row in compared(EXPECTED, TOOK)}
    assert rows["tokens"] == (1000, 500, 0.5)
    assert rows["teacher_hours"] == pytest.approx((5 / 3600, 10 / 3600, 2))
    assert rows["tokens_per_second"] == (100, 50, 0.5)
    assert rows["bytes_on_disk"] == (10_000, 5000, 0.5)
    assert rows["bytes_per_token"] == (20, 10, 0.5)
    assert rows["cost"] == pytest.approx((0.005, 0.02, 4))


def test_without_a_price_or_a_count_there_is_no_such_row() -> None:
    expected = {name: EXPECTED[name] for name in ("tokens_per_second", "bytes_per_token")} | {"price_per_hour": None}
    assert {"tokens", "cost"} & {row["quantity"] for row in compared(expected, TOOK)} == set()
    assert compared({}, TOOK) == []
    assert compared(EXPECTED, {**TOOK, "n_tokens": 0}) == []


def test_the_spread_of_earlier_estimates_is_a_middle_and_its_ends() -> None:
    assert spread_of([1.2]) == "+20 % in one run"
    assert spread_of([0.9, 1.5, 1.1]) == "+10 % (-10 % to +50 %) in 3 runs"


def test_a_capture_notes_what_it_expects_when_it_begins_and_what_it_took_at_the_end(
    config: Config, run_capture: Any
) -> None:
    priced = config.model_copy(update={"capture": config.capture.model_copy(update={"price_per_hour": 7.2})})
    first = run_capture(priced)
    noted = run_of(config, first.run_id)
    assert noted["started"]["expected"]["price_per_hour"] == 7.2
    assert "assumed" in noted["started"]["expected"]["tokens_per_second_from"]
    assert noted["detail"]["expected"]["tokens"] == first.n_tokens
    assert first.cost == pytest.approx(first.seconds / 3600 * 7.2)
    by_name = {row["quantity"]: row for row in first.comparison()}
    assert by_name["tokens"]["ratio"] == 1
    assert by_name["bytes_per_token"]["took"] == pytest.approx(first.bytes_per_token)
    assert by_name["cost"]["took"] == pytest.approx(first.cost)


def test_a_killed_run_has_its_expectation_on_record(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt), CaptureRun(config) as run:
        run.commit(run.compute(next(run.units())))
        noted = run_of(config, run.run_id)
        assert noted["status"] == "started"
        assert noted["started"]["expected"]["bytes_per_token"] > 0
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_second_capture_expects_what_the_first_took_and_the_plan_says_how_good_that_was(
    cli: Any, config: Config, config_file: Any, run_capture: Any
) -> None:
    capture = config.capture.model_copy(update={"max_tokens": 400})
    run_capture(config.model_copy(update={"capture": capture}))
    second = run_capture(config)
    assert "measured" in run_of(config, second.run_id)["started"]["expected"]["bytes_per_token_from"]
    with Lake.open(location_of(config)) as lake:
        found = earlier_estimates(lake)
    assert found[0]["run_id"] == second.run_id
    assert found[0]["bytes_ratio"] == pytest.approx(second.comparison()[-1]["ratio"])
    plan = json.loads(cli("plan", "--config", config_file, "--format", "json").stdout)
    assert [row["run_id"] for row in plan["earlier_estimates"]] == [row["run_id"] for row in found]
    assert "in one run" in cli("plan", "--config", config_file).stdout


def test_show_run_compares(cli: Any, config: Config, config_file: Any, captured: Any) -> None:
    shown = json.loads(cli("show", "run", "last", "--config", config_file, "--format", "json").stdout)
    assert [row["quantity"] for row in shown["compared"]] == [row["quantity"] for row in captured.comparison()]
    assert "expected" in cli("show", "run", "last", "--config", config_file).stdout


def test_the_price_of_the_settings_is_that_of_the_plan_unless_it_is_given(cli: Any, config_file: Any) -> None:
    call = ("plan", "--config", config_file, "--format", "json", "--tokens-per-second", "100")
    assert "cost" not in json.loads(cli(*call).stdout)
    by_setting = json.loads(cli(*call, "--set", "capture.price_per_hour=2").stdout)["cost"]
    by_flag = json.loads(cli(*call, "--set", "capture.price_per_hour=2", "--price-per-hour", "4").stdout)["cost"]
    assert by_flag == pytest.approx(2 * by_setting) and by_setting > 0


def test_the_count_beside_a_capture_is_that_of_the_plan(config: Config, captured: Any) -> None:
    with PlanCount(prepare(config), stored=lambda doc_ids: set()) as count:
        count.start()
        count.start()
        count.wait()
    assert count.summary is not None
    assert (count.summary.tokens, count.summary.new) == (captured.n_tokens, captured.n_documents)


def test_a_count_that_is_not_needed_any_more_is_given_up(config: Config) -> None:
    small = config.model_copy(update={"capture": config.capture.model_copy(update={"unit_tokens": 50})})
    asked, go_on = threading.Event(), threading.Event()

    def known(doc_ids: list[str]) -> set[str]:
        asked.set()
        go_on.wait()
        return set()

    with PlanCount(prepare(small), known) as count:
        count.start()
        asked.wait()
        count.stop()
        go_on.set()
    assert count.summary is None


def test_a_corpus_that_can_not_be_read_leaves_the_count_open(config: Config) -> None:
    corpus = config.corpora[0].model_copy(update={"path": "/no/such/file.jsonl"})
    with PlanCount(prepare(config.model_copy(update={"corpora": (corpus,)})), lambda doc_ids: set()) as count:
        count.start()
        count.wait()
    assert count.summary is None
