"""What to alert on, by OpenTelemetry: numbers of captures, commits, the student's queue, decisions and upkeep.

Without an endpoint in the environment (OTEL_EXPORTER_OTLP_ENDPOINT, or what `opentelemetry-instrument` arranges) all of
it costs nothing. A flow's process is short, so numbers are sent when they are made.
"""

import logging
import os
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Meter, NoOpMeterProvider, get_meter_provider, set_meter_provider

from logitlake.flows.reports import CaptureReport, MaintainReport, RedistillReport

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def record_capture(report: CaptureReport) -> None:
    """How much the teacher brought, how fast, and how far the commits are."""
    meter, labels = _meter(), {"teacher": report.teacher}
    meter.create_counter("logitlake.capture.runs").add(1, labels)
    meter.create_counter("logitlake.capture.documents").add(report.n_documents, labels)
    meter.create_counter("logitlake.capture.tokens", unit="{token}").add(report.n_tokens, labels)
    meter.create_counter("logitlake.capture.rejects").add(report.documents_rejected, labels)
    meter.create_counter("logitlake.capture.teacher_time", unit="s").add(report.teacher_seconds, labels)
    meter.create_counter("logitlake.commit.units").add(report.n_units, labels)
    meter.create_counter("logitlake.commit.bytes", unit="By").add(report.n_bytes, labels)
    if report.commit_number is not None:
        meter.create_gauge("logitlake.commit.number").set(report.commit_number, labels)
    _send()


def record_redistill(report: RedistillReport) -> None:
    """How much waits for the student, and what was decided."""
    meter, labels = _meter(), {"alias": report.alias}
    waiting = 0 if report.outcome == "promoted" else report.new_documents
    meter.create_gauge("logitlake.queue.documents").set(waiting, labels)
    decisions = meter.create_counter("logitlake.promotion.decisions")
    decisions.add(report.promoted, {**labels, "decision": "promoted"})
    decisions.add(report.rejected, {**labels, "decision": "rejected"})
    _send()


def record_maintain(report: MaintainReport) -> None:
    """How large the lake is and how tidy."""
    meter = _meter()
    meter.create_gauge("logitlake.lake.shards").set(report.shards_after)
    meter.create_gauge("logitlake.lake.bytes", unit="By").set(report.bytes_after)
    meter.create_gauge("logitlake.lake.snapshots").set(report.snapshots_after)
    meter.create_counter("logitlake.verify.units").add(report.units_verified)
    _send()


def _meter() -> Meter:
    _arrange()
    return metrics.get_meter("logitlake")


@cache
def _arrange() -> None:
    """Send to the endpoint of the environment, unless somebody has arranged that already."""
    endpoint = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    provider = get_meter_provider()
    if endpoint is None or hasattr(provider, "force_flush"):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    except ImportError:
        log.warning("%s is set, but the exporter is not installed: pip install 'logitlake[metrics]'", endpoint)
        set_meter_provider(NoOpMeterProvider())
        return
    set_meter_provider(MeterProvider(metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())]))


def _send() -> None:
    flush = getattr(get_meter_provider(), "force_flush", None)
    if flush is not None:
        flush(timeout_millis=10_000)
