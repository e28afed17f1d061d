"""Spans are recorded if tracing is on and the sampler agrees, in the trace of their request, and delay nothing."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client import REGISTRY

from shared.batcher import Batcher
from shared.process import trace
from shared.tracing import recording, spans
from shared.tracing.settings import TracingSettings
from shared.tracing.spans import NOT_RECORDED, Span
from tests.infrastructure.otlp import CollectingExporter
from tests.infrastructure.waiting import wait_until
from tests.unit.shared.work import Work

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
WITHOUT_OPENTELEMETRY = """
import sys
import services.order.__main__, services.relay.__main__, services.product.__main__, deploy.consumer.__main__
print(sorted({name.split(".")[0] for name in sys.modules} & {"opentelemetry", "google", "requests"}))
"""


@contextmanager
def recorded(exporter: CollectingExporter) -> Iterator[None]:
    """Record in the body, and forget the current span after it."""
    token = spans.current.set(NOT_RECORDED)
    try:
        with recording.exported("test", TracingSettings(), exporter):
            yield
    finally:
        spans.current.reset(token)


@pytest.fixture
def exporter() -> CollectingExporter:
    return CollectingExporter()


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("trace_spans_dropped_total", {"reason": reason}) or 0.0


def request(headers: dict[str, str]) -> Span:
    mark = trace.from_headers(headers)
    return spans.begin_request(mark.traceparent, is_root=mark.is_root)


def test_opentelemetry_is_not_imported_while_tracing_is_off() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENTELEMETRY], env=clean, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_process_without_the_variables_does_not_import_opentelemetry() -> None:
    script = """
import sys
from shared.tracing.settings import TracingSettings
from shared.tracing.spans import tracing
with tracing("test", "", TracingSettings()):
    print("opentelemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("variables", "traced"),
    [
        ({}, False),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_the_standard_variables_turn_tracing_on(variables: dict[str, str], *, traced: bool) -> None:
    assert TracingSettings.model_validate(variables).traced is traced


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "many"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "511"},
    ],
)
def test_a_value_of_which_the_library_would_only_warn_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TracingSettings.model_validate(variables)


def test_request_of_a_traced_caller_has_a_span_below_the_callers(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        spans.end_request(request({"traceparent": SAMPLED}), "GET", "/v1/orders/{order_id}", 200)
    (span,) = exporter.spans
    assert (span.name, span.trace_id, span.parent_id) == ("GET /v1/orders/{order_id}", TRACE, PARENT)
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/orders/{order_id}",
        "http.response.status_code": 200,
    }
    assert not span.failed


def test_request_without_a_caller_begins_the_trace_of_its_log_lines(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        mark = trace.from_headers({})
        begun = spans.begin_request(mark.traceparent, is_root=mark.is_root)
        fields = trace.log_fields(None, "info", {})
        spans.end_request(begun, "GET", "/x", 503)
    (span,) = exporter.spans
    assert (span.trace_id, span.parent_id, span.failed) == (mark.trace_id, "", True)
    assert fields == {"trace_id": mark.trace_id, "span_id": span.span_id}


def test_next_request_of_a_connection_does_not_continue_the_span_of_the_last(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        request({}).end()
        assert spans.current.get().recorded
        spans.begin_request(None, is_root=False)
        assert spans.current.get() is NOT_RECORDED


@pytest.mark.parametrize(
    ("sampler", "caller", "is_recorded"),
    [
        ("parentbased_always_on", {}, True),
        ("parentbased_always_on", {"traceparent": NOT_SAMPLED}, False),
        ("parentbased_always_off", {}, False),
        ("parentbased_always_off", {"traceparent": SAMPLED}, True),
        ("always_off", {"traceparent": SAMPLED}, False),
        ("always_on", {"traceparent": NOT_SAMPLED}, True),
    ],
)
def test_the_sampler_decides_about_all_of_a_request(
    sampler: str,
    caller: dict[str, str],
    *,
    is_recorded: bool,
    exporter: CollectingExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with recorded(exporter):
        span = request(caller)
        child = span.child("step")
        child.end()
        span.end()
    assert span.recorded is child.recorded is is_recorded
    assert len(exporter.spans) == 2 * is_recorded


def test_service_that_is_called_follows_the_decision_about_a_new_trace(
    exporter: CollectingExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    with recorded(exporter):
        for _ in range(100):
            mark = trace.from_headers({})
            span = spans.begin_request(mark.traceparent, is_root=mark.is_root)
            called = spans.continued("called", {**mark.headers(), **spans.headers()}["traceparent"])
            assert called.recorded is span.recorded
            called.end()
            span.end()
    assert 0 < len(exporter.spans) < 200
    assert len(exporter.spans) == 2 * len({span.trace_id for span in exporter.spans})


def test_failure_is_recorded_without_its_text(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        span = request({})
        span.fail(ValueError("4111111111111111"))
        span.end()
    (span_,) = exporter.spans
    assert (span_.failed, span_.attributes, span_.events) == (True, {"error.type": "ValueError"}, [])


def test_failure_that_is_no_exception_is_recorded_by_its_name(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        span = request({})
        span.fail("cancelled")
        span.end()
    (span_,) = exporter.spans
    assert (span_.failed, span_.attributes) == (True, {"error.type": "cancelled"})


async def test_batch_is_in_the_first_trace_of_its_items_and_linked_to_the_others(exporter: CollectingExporter) -> None:
    work = Work()
    with recorded(exporter):
        async with Batcher("test", work, batch_max=4, queue_max=8) as batches:
            first = batches.submit(0)  # not recorded: without a request
            await work.started.wait()
            requests = [request({}) for _ in range(3)]
            others = [batches.submit(number, span) for number, span in enumerate([NOT_RECORDED, *requests], 1)]
            work.through.set()
            await asyncio.gather(first, *others)
        for span in requests:
            span.end()
    (batch,) = [span for span in exporter.spans if span.name == "batch test"]
    ids = [(span.trace_id, span.span_id) for span in requests]
    assert (batch.trace_id, batch.parent_id) == ids[0]
    assert batch.links == ids[1:]
    assert batch.attributes == {"batch.size": 4}
    linked = {span.span_id: span.links for span in exporter.spans if span.name == "request"}
    assert linked == {span.span_id: [(batch.trace_id, batch.span_id)] * (span is not requests[0]) for span in requests}


async def test_failed_batch_has_a_failed_span(exporter: CollectingExporter) -> None:
    async def work(_: object) -> list[int]:
        raise OSError("gone")

    with recorded(exporter):
        async with Batcher[int, int]("test", work, batch_max=4, queue_max=8) as batches:
            with pytest.raises(OSError, match="gone"):
                await batches.submit(1, request({}))
    (batch,) = exporter.spans
    assert (batch.failed, batch.attributes["error.type"]) == (True, "OSError")


def test_full_queue_drops_and_counts_and_never_blocks(exporter: CollectingExporter) -> None:
    before, settings = dropped("queue_full"), TracingSettings()
    exporter.answers.clear()
    token = spans.current.set(NOT_RECORDED)
    try:
        with recording.exported("test", settings, exporter):
            for _ in range(512):  # one export, which hangs from now on
                request({}).end()
            assert exporter.called.wait(20)
            began = time.monotonic()
            for _ in range(settings.queue_max + 100):
                request({}).end()
            assert time.monotonic() - began < 5
            assert dropped("queue_full") - before == 100
            exporter.answers.set()
    finally:
        spans.current.reset(token)
    wait_until(lambda: len(exporter.spans) == 512 + settings.queue_max, 20, "the spans of the queue")


def test_failed_exports_are_counted_and_logged_once(
    exporter: CollectingExporter, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dropped("export_failed")
    exporter.result = SpanExportResult.FAILURE
    with recorded(exporter):
        for _ in range(3 * 512):
            request({}).end()
        wait_until(lambda: dropped("export_failed") - before == 3 * 512, 20, "three failed exports")
        exporter.result = SpanExportResult.SUCCESS
        request({}).end()
    wait_until(lambda: exporter.spans[3 * 512 :], 20, "an export that succeeds")
    output = capfd.readouterr().out
    assert output.count("spans.export_failed") == 1
    assert output.count("spans.export_recovered") == 1


def test_export_that_raises_is_counted_as_failed(exporter: CollectingExporter) -> None:
    before = dropped("export_failed")
    exporter.bug = ValueError("a bug of the library")
    with recorded(exporter):
        request({}).end()
    assert dropped("export_failed") - before == 1


def test_exporter_that_hangs_delays_the_stop_by_no_more_than_a_second(exporter: CollectingExporter) -> None:
    exporter.answers.clear()
    with recorded(exporter):
        request({}).end()
        began = time.monotonic()
    assert recording.FLUSH_SECONDS <= time.monotonic() - began < 5
    exporter.answers.set()


def test_spans_of_a_stopped_process_are_exported(exporter: CollectingExporter) -> None:
    with recorded(exporter):
        request({}).end()
    assert len(exporter.spans) == 1
    assert not spans.is_on()
    assert not [thread for thread in threading.enumerate() if "Otel" in thread.name]


def test_log_level_changes_also_for_loggers_that_are_in_use() -> None:
    script = """
import structlog
from shared.process import logs
logs.configure("test", "error")
log = structlog.get_logger()
for level in (None, "debug", "error"):
    if level:
        logs.change_level(level)
    for name in ("debug", "info", "error"):
        getattr(log, name)(f"{name} at {level}")
    log.info("%s at %s", "formatted", level)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "error at None",
        "log_level.changed",
        "debug at debug",
        "info at debug",
        "error at debug",
        "formatted at debug",
        "error at error",
    ]
