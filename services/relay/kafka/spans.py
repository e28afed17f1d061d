"""The spans of events on their way to Kafka: one of each event, below the request that caused it, and one of all."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from services.relay.domain.events import OutboxEvent
from services.relay.kafka.records import Header
from shared.tracing import spans


class SendSpans:
    """Spans while events are sent, in a `with`. `headers` has the header by which a consumer continues, by outbox id.

    It is W3C's header of the last hop, `traceparent`. `ce_traceparent` stays what it was when the event was written.
    """

    def __init__(self, topic: str, events: Sequence[OutboxEvent]) -> None:
        begun = (
            [(event, spans.continued(f"publish {topic}", event.traceparent, "producer")) for event in events]
            if spans.is_on()
            else ()
        )
        recorded = [(event, span) for event, span in begun if span.recorded]
        self._events = [span for _, span in recorded]
        self._batch = spans.batch(f"send {topic}", self._events, "client")
        self._batch.set({"messaging.batch.message_count": len(events)})
        self.headers: Mapping[int, Header] = {
            event.outbox_id: ("traceparent", span.traceparent.encode()) for event, span in recorded
        }
        for event, span in recorded:
            span.set({"messaging.message.id": event.event_id, "order.id": event.order_id, "event.type": event.type})
        for span in (self._batch, *self._events):
            span.set({"messaging.system": "kafka", "messaging.destination.name": topic})

    def __enter__(self) -> "SendSpans":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for span in (self._batch, *self._events):
            if error is not None:
                span.fail(error)
            span.end()
