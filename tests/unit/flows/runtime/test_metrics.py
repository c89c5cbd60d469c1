"""What is to be alerted on is counted, and costs nothing where nobody listens."""

from typing import Any

import pytest

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.reports import CaptureReport, MaintainReport, RedistillReport
from logitlake.flows.runtime import metrics
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads what was recorded, by name and labels."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics, "_meter", lambda: provider.get_meter("logitlake"))

    def read() -> dict[str, float]:
        data = reader.get_metrics_data()
        assert data is not None
        found = [metric for part in data.resource_metrics for scope in part.scope_metrics for metric in scope.metrics]
        return {
            " ".join([metric.name, *map(str, sorted(point.attributes.values()))]): point.value
            for metric in found
            for point in metric.data.data_points
        }

    return read


def test_a_capture_counts_documents_tokens_and_commits(numbers: Any) -> None:
    report = CaptureReport(
        run_id="r", recipe_id="i", teacher="tiny", n_units=2, n_documents=3, n_tokens=40, n_bytes=500
    )
    metrics.record_capture(report, 7)
    found = numbers()
    assert found["logitlake.capture.documents tiny"] == 3
    assert found["logitlake.capture.tokens tiny"] == 40
    assert found["logitlake.commit.units tiny"] == 2
    assert found["logitlake.commit.number tiny"] == 7


@pytest.mark.slow
def test_the_commit_number_stands_still_in_an_idle_hour(numbers: Any, config: Config) -> None:
    """So that an alert on it can fire. The notes of the idle run raise the number of the lake."""

    def hour() -> tuple[float, int]:
        with CaptureRun(config) as run:
            for number in run.units():
                run.commit(run.compute(number))
        metrics.record_capture(run.report, run.last_data_commit)
        with Lake.open(location_of(config)) as lake:
            return numbers()[f"logitlake.commit.number {run.report.teacher}"], lake.commit_number

    recorded, before = hour()
    assert recorded > 0
    recorded_again, after = hour()
    assert (recorded_again, after > before) == (recorded, True)


def test_what_waits_for_the_student_is_a_queue_and_decisions_are_counted(numbers: Any) -> None:
    report = RedistillReport(run_id="r", alias="current", outcome="rejected", new_documents=12, rejected=1)
    metrics.record_redistill(report)
    found = numbers()
    assert found["logitlake.queue.documents current"] == 12
    assert found["logitlake.promotion.decisions current rejected"] == 1


def test_a_promotion_empties_the_queue(numbers: Any) -> None:
    metrics.record_redistill(RedistillReport(run_id="r", alias="current", outcome="promoted", new_documents=12))
    assert numbers()["logitlake.queue.documents current"] == 0


def test_upkeep_says_how_large_the_lake_is(numbers: Any) -> None:
    metrics.record_maintain(
        MaintainReport(run_id="r", dry_run=False, shards_after=5, bytes_after=10, snapshots_after=2)
    )
    assert numbers()["logitlake.lake.shards"] == 5


def test_without_an_endpoint_nothing_is_arranged(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.metrics import get_meter_provider

    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    metrics._set_provider.cache_clear()
    metrics.record_maintain(MaintainReport(run_id="r", dry_run=False))
    assert not hasattr(get_meter_provider(), "force_flush")
