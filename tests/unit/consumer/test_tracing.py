"""The reference consumer continues the traces of events, if the standard variables ask for it."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.consumer import tracing
from tests.infrastructure.otlp import CollectingExporter

TRACES = ["a" * 32, "b" * 32, "c" * 32]
REQUEST, RELAY = "1" * 16, "2" * 16


def record(offset: int, headers: Mapping[str, str]) -> Any:
    raw = [(name, value.encode()) for name, value in headers.items()]
    return SimpleNamespace(topic="orders.v1", partition=3, offset=offset, headers=[*raw, ("empty", None)])


RECORDS = [
    record(0, {"ce_traceparent": f"00-{TRACES[0]}-{REQUEST}-01", "traceparent": f"00-{TRACES[0]}-{RELAY}-01"}),
    record(1, {"ce_traceparent": f"00-{TRACES[1]}-{REQUEST}-01"}),
    record(2, {"ce_traceparent": f"00-{TRACES[2]}-{REQUEST}-00"}),
    record(3, {}),
    record(4, {"traceparent": "ÿ"}),
]


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_turn_the_consumers_tracing_on(environment: dict[str, str], *, asked: bool) -> None:
    assert tracing.is_asked_for(environment) is asked


def test_an_event_is_processed_below_the_relays_span_or_its_request() -> None:
    exporter = CollectingExporter()
    with tracing.exported(exporter), tracing.processed(RECORDS):
        pass
    spans = {(span.name, span.trace_id): span for span in exporter.spans}
    first, second = (spans["process orders.v1", trace] for trace in TRACES[:2])
    assert (first.parent_id, second.parent_id) == (RELAY, REQUEST)
    assert first.attributes["messaging.kafka.offset"] == 0
    batch = spans["process batch", TRACES[0]]
    assert batch.parent_id == first.span_id
    assert set(batch.links) >= {(TRACES[1], second.span_id)}
    assert {trace for _, trace in spans} == set(TRACES[:2])


def test_failed_transaction_fails_the_spans_without_the_text_of_its_error() -> None:
    exporter = CollectingExporter()
    with tracing.exported(exporter), pytest.raises(ValueError, match="canary"), tracing.processed(RECORDS[:1]):
        raise ValueError("canary")
    assert [(span.failed, span.attributes["error.type"], span.events) for span in exporter.spans] == [
        (True, "ValueError", [])
    ] * 2


def test_without_tracing_a_batch_is_processed_as_ever() -> None:
    with tracing.processed(RECORDS):
        pass
