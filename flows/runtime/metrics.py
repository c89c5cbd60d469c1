"""Metrics for alerts, by OpenTelemetry: captures, commits, queue, decisions and upkeep.

They do nothing without an endpoint in the environment (OTEL_EXPORTER_OTLP_ENDPOINT, or `opentelemetry-instrument`). A
flow's process is short, so metrics are sent at once.
"""

import logging
import os
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Meter, NoOpMeterProvider, get_meter_provider, set_meter_provider

from logitlake.flows.reports import CaptureReport, MaintainReport, RedistillReport

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def record_capture(report: CaptureReport, last_data_commit: int) -> None:
    """Documents, tokens, rejects and time of a capture, and the number of the lake's last commit with documents."""
    meter, labels = _meter(), {"teacher": report.teacher}
    meter.create_counter("logitlake.capture.runs").add(1, labels)
    meter.create_counter("logitlake.capture.documents").add(report.n_documents, labels)
    meter.create_counter("logitlake.capture.tokens", unit="{token}").add(report.n_tokens, labels)
    meter.create_counter("logitlake.capture.rejects").add(report.documents_rejected, labels)
    meter.create_counter("logitlake.capture.teacher_time", unit="s").add(report.teacher_seconds, labels)
    meter.create_counter("logitlake.commit.units").add(report.n_units, labels)
    meter.create_counter("logitlake.commit.bytes", unit="By").add(report.n_bytes, labels)
    # Of every run: an idle one shows that the number does not rise.
    meter.create_gauge("logitlake.commit.number").set(last_data_commit, labels)
    _send()


def record_redistill(report: RedistillReport) -> None:
    """New documents that wait for a student, and the decisions."""
    meter, labels = _meter(), {"alias": report.alias}
    waiting = 0 if report.outcome == "promoted" else report.new_documents
    meter.create_gauge("logitlake.queue.documents").set(waiting, labels)
    decisions = meter.create_counter("logitlake.promotion.decisions")
    decisions.add(report.promoted, {**labels, "decision": "promoted"})
    decisions.add(report.rejected, {**labels, "decision": "rejected"})
    _send()


def record_maintain(report: MaintainReport) -> None:
    """Shards, bytes and snapshots of the lake, and verified units."""
    meter = _meter()
    meter.create_gauge("logitlake.lake.shards").set(report.shards_after)
    meter.create_gauge("logitlake.lake.bytes", unit="By").set(report.bytes_after)
    meter.create_gauge("logitlake.lake.snapshots").set(report.snapshots_after)
    meter.create_counter("logitlake.verify.units").add(report.units_verified)
    _send()


def _meter() -> Meter:
    _set_provider()
    return metrics.get_meter("logitlake")


@cache
def _set_provider() -> None:
    """Send to the endpoint in the environment, unless a provider is set already."""
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
