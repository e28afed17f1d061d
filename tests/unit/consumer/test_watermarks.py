"""What the reference consumer takes for a watermark: nothing that it could not use later."""

import json
from typing import Any

import pytest

from deploy.consumer.events import decode_watermark

HEADERS = [("ce_type", b"order.watermark.v1")]
BODY: dict[str, Any] = {
    "topic": "orders.v1",
    "up_to": "2026-01-05T09:30:00Z",
    "partitions": {"0": 5, "1": 0},
    "missing": [],
    "missing_count": 0,
}


PARKED = {"order_id": "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c12", "sequence": 2}


def test_watermark_is_read_without_its_further_fields() -> None:
    body = {**BODY, "missing": [{**PARKED, "new": "\0"}], "missing_count": 1, "new": None}
    assert decode_watermark(HEADERS, json.dumps(body).encode()) == {**BODY, "missing": [PARKED], "missing_count": 1}


UNUSABLE: dict[str, list[Any]] = {
    "topic": [None, 1],
    "up_to": [None, 1, "today", "2026-01-05"],
    "partitions": [None, [], {}, {"x": 5}, {"0": "5"}, {"0": 5, "1": None}, {"0": True}, {"0": -1}, {"0": 2**63}],
    "missing": [None, {"x": 1}, 1, [1], [{"order_id": "x\0", "sequence": 1}], [{**PARKED, "sequence": "\ud800"}]],
    "missing_count": [None, "1", 1.0, 2**63],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in UNUSABLE for value in UNUSABLE[name]], ids=repr)
def test_watermark_with_an_unusable_field_is_none(name: str, value: object) -> None:
    assert decode_watermark(HEADERS, json.dumps({**BODY, name: value}).encode()) is None


@pytest.mark.parametrize("name", BODY)
def test_watermark_without_a_field_is_none(name: str) -> None:
    body = {field: value for field, value in BODY.items() if field != name}
    assert decode_watermark(HEADERS, json.dumps(body).encode()) is None


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b"[]", b"1", b"null", b"[" * 100_000])
def test_value_that_is_no_object_is_none(value: bytes | None) -> None:
    assert decode_watermark(HEADERS, value) is None


@pytest.mark.parametrize("headers", [[], [("ce_type", b"order.watermark.v2")]])
def test_record_of_another_type_is_none(headers: list[tuple[str, bytes]]) -> None:
    assert decode_watermark(headers, json.dumps(BODY).encode()) is None
