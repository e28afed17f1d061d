"""What the relay's history says of a record: true, forged, absent, or not decided yet; and which records it judges."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.consumer.verification import Claim, Verdict, judge, readable
from shared.ids import uuid7
from tests.unit.consumer.test_rules import DATA, HEADERS, ORDER_ID

CLAIM = Claim(uuid7(), 2, "order.paid.v1", datetime(2026, 1, 5, 9, 30, tzinfo=UTC), b"\x01" * 32)
ITEM = {
    "event_id": str(CLAIM.event_id),
    "sequence": CLAIM.sequence,
    "type": CLAIM.type,
    "occurred_at": CLAIM.occurred_at.isoformat(),
    "status": "SENT",
    "sha256": CLAIM.sha256.hex(),
}


@pytest.mark.parametrize(
    ("of_the_relay", "claimed", "verdict", "reason"),
    [
        ({}, {}, Verdict.TRUE, ""),
        ({"status": "PENDING", "sha256": None}, {}, Verdict.OPEN, "not marked as published yet"),
        ({"status": "SKIPPED", "sha256": None}, {}, Verdict.FORGED, "gave this event up"),
        ({}, {"event_id": uuid7()}, Verdict.FORGED, "another event has this sequence"),
        ({}, {"sequence": 3}, Verdict.FORGED, "its sequence is 2"),
        ({}, {"sequence": 3, "event_id": uuid7()}, Verdict.ABSENT, "no such event"),
        ({}, {"type": "order.other.v1"}, Verdict.FORGED, "its type differ"),
        ({}, {"occurred_at": CLAIM.occurred_at + timedelta(microseconds=1)}, Verdict.FORGED, "its time differ"),
        ({"type": "order.other.v1"}, {"sha256": b"\x02" * 32}, Verdict.FORGED, "its type and value differ"),
    ],
)
def test_verdict_follows_from_the_relays_events_of_the_order(
    of_the_relay: dict[str, Any], claimed: dict[str, Any], verdict: Verdict, reason: str
) -> None:
    found, why = judge(replace(CLAIM, **claimed), [ITEM | of_the_relay])
    assert found is verdict
    assert reason in why


def letter(**headers: bytes | None) -> Any:
    """Return a record that was kept aside, with these headers besides its own."""
    own = [[name, None if value is None else value.hex()] for name, value in ({**HEADERS, **headers}).items()]
    place = {"topic": "orders.v1", "partition": 3, "record_offset": 7}
    return {"headers": own, "value": json.dumps(DATA).encode(), "removed_before": CLAIM.occurred_at, **place}


def test_readable_records_of_those_kept_aside_are_events_with_their_place() -> None:
    events = readable([letter(a_header_without_a_value=None), letter(ce_id=b"no id")])
    assert [(event.order_id, event.sequence, event.topic, event.place) for event in events] == [
        (ORDER_ID, 2, "orders.v1", (3, 7))
    ]
    assert list(events.values()) == [CLAIM.occurred_at]
