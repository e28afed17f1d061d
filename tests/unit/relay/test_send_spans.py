"""An event's span continues the trace that was stored with it, and the consumer is told of it."""

from datetime import UTC, datetime

import pytest

from services.relay.domain.events import OutboxEvent
from services.relay.kafka.spans import SendSpans
from shared.tracing import recording
from shared.tracing.settings import TracingSettings
from tests.infrastructure.otlp import CollectingExporter

TRACES = ["a" * 32, "b" * 32, "c" * 32]
PARENT = "1" * 16


def event(number: int, flags: str | None = "01") -> OutboxEvent:
    traceparent = None if flags is None else f"00-{TRACES[number]}-{PARENT}-{flags}"
    return OutboxEvent(number, f"event-{number}", f"order-{number}", 1, "t.v1", b"", traceparent, datetime.now(UTC))


def test_nothing_is_sent_of_traces_while_tracing_is_off() -> None:
    with SendSpans("orders.v1", [event(0)]) as sending:
        assert sending.headers == {}


def test_each_event_has_a_span_in_its_trace_and_the_batch_is_linked_to_all() -> None:
    exporter = CollectingExporter()
    with recording.exported("relay", TracingSettings(), exporter):
        events = [event(0), event(1, "00"), event(2), event(1, None)]
        with SendSpans("orders.v1", events) as sending:
            assert set(sending.headers) == {0, 2}
    batch, first, second = sorted(exporter.spans, key=lambda span: (span.name != "send orders.v1", span.trace_id))
    assert [(span.name, span.trace_id, span.parent_id) for span in (first, second)] == [
        ("publish orders.v1", TRACES[0], PARENT),
        ("publish orders.v1", TRACES[2], PARENT),
    ]
    assert first.attributes["order.id"] == "order-0"
    assert sending.headers[2] == ("traceparent", f"00-{TRACES[2]}-{second.span_id}-01".encode())
    assert (batch.trace_id, batch.parent_id, batch.links) == (
        TRACES[0],
        first.span_id,
        [(TRACES[2], second.span_id)],
    )
    assert batch.attributes["messaging.batch.message_count"] == 4


def test_failed_batch_fails_the_spans_of_its_events() -> None:
    exporter = CollectingExporter()
    with (
        recording.exported("relay", TracingSettings(), exporter),
        pytest.raises(TimeoutError),
        SendSpans("orders.v1", [event(0)]),
    ):
        raise TimeoutError("canary")
    assert [span.failed for span in exporter.spans] == [True, True]
    assert {span.attributes["error.type"] for span in exporter.spans} == {"TimeoutError"}
