"""An event's record on the topic, and its partition."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from services.relay.domain.events import OutboxEvent
from services.relay.kafka.records import headers, partitions


def event(**changes: Any) -> OutboxEvent:
    """Return an event with every field set."""
    whole = OutboxEvent(
        outbox_id=7,
        event_id="01890a5d-ac96-774b-bcce-b302099a8057",
        order_id="01890a5d-ac96-774b-bcce-b302099a8058",
        sequence=2,
        type="order.paid.v1",
        payload=b"{}",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    )
    return whole._replace(**changes)


def test_an_event_carries_its_cloudevents_attributes_as_headers() -> None:
    assert dict(headers(event())) == {
        "ce_specversion": b"1.0",
        "ce_id": b"01890a5d-ac96-774b-bcce-b302099a8057",
        "ce_source": b"/services/order",
        "ce_type": b"order.paid.v1",
        "ce_time": b"2026-01-02T03:04:05.678901Z",
        "ce_subject": b"01890a5d-ac96-774b-bcce-b302099a8058",
        "ce_sequence": b"00000000000000000002",
        "ce_traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "content-type": b"application/json",
    }


def test_an_event_without_a_trace_has_no_header_for_it() -> None:
    assert "ce_traceparent" not in dict(headers(event(traceparent=None)))


def test_a_full_second_is_still_a_valid_time() -> None:
    assert dict(headers(event(occurred_at=datetime(2026, 1, 2, tzinfo=UTC))))["ce_time"] == b"2026-01-02T00:00:00Z"


@given(st.lists(st.uuids(), min_size=1, max_size=5), st.integers(1, 100))
def test_an_order_has_the_partition_that_every_client_computes(order_ids: list[UUID], count: int) -> None:
    keys = [str(order_id).encode() for order_id in order_ids]
    numbers = list(range(count))
    assert partitions(keys, count) == [DefaultPartitioner()(key, numbers, numbers) for key in keys]
