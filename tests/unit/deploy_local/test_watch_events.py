"""How an event of the topic is shown."""

import json

from aiokafka import ConsumerRecord

from deploy.local.watch_events import event_of, line_of

ORDER = {
    "order_id": "0190-1",
    "user_id": "alice",
    "status": "PAID",
    "lines": [{"product_id": "keyboard", "quantity": 2}, {"product_id": "mouse", "quantity": 1}],
    "coupon_id": None,
    "total_amount": 115000,
    "currency": "KRW",
}


def record(value: bytes | None, **headers: str) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(
        topic="orders.v1",
        partition=2,
        offset=7,
        timestamp=0,
        timestamp_type=0,
        key=b"0190-1",
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple((name, text.encode()) for name, text in headers.items()),
    )


def test_line_has_time_type_order_sequence_and_products() -> None:
    event = event_of(
        record(
            json.dumps(ORDER).encode(),
            ce_time="2026-01-02T03:04:05Z",
            ce_type="order.paid.v1",
            ce_subject="0190-1",
            ce_sequence="00000000000000000012",
        )
    )
    assert line_of(event) == (
        "2026-01-02T03:04:05Z  order.paid.v1       0190-1  #12  "
        "status=PAID  user_id=alice  2xkeyboard+1xmouse  total=115000 KRW"
    )


def test_an_event_holds_its_attributes_its_place_and_its_data() -> None:
    event = event_of(record(b'{"status":"PAID"}', **{"ce_id": "e1", "content-type": "application/json"}))
    assert event == {"id": "e1", "partition": 2, "offset": 7, "data": {"status": "PAID"}}


def test_record_of_another_kind_is_shown() -> None:
    event = event_of(record(b"\xff not JSON"))
    assert event["data"] == "\ufffd not JSON"
    assert line_of(event).startswith("?  ?")


def test_a_record_without_a_value_is_shown() -> None:
    assert event_of(record(None))["data"] is None
