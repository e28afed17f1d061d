"""The reference consumer's rules: which events it accepts, their sequence, repeats, and the resulting order."""

import hashlib
import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.consumer.events import (
    Event,
    Order,
    Undecodable,
    decode,
    differences,
    digest,
    identity,
    minute_of,
    parse_timestamp,
)
from deploy.consumer.intake import Decision, Sales, Stream, apply, decide, sort_out
from deploy.consumer.store import SQL
from shared.ids import uuid7

ORDER_ID = UUID("019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c12")
DATA = {"order_id": str(ORDER_ID), "status": "PAID", "user_id": "alice", "total_amount": 500, "currency": "KRW"}
HEADERS: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"019a0c1e-7d60-7001-8000-0123456789ab",
    "ce_type": b"order.paid.v1",
    "ce_time": b"2026-01-05T09:30:00.240001Z",
    "ce_subject": str(ORDER_ID).encode(),
    "ce_sequence": b"00000000000000000002",
}


def read(data: object = DATA, **headers: bytes | None) -> Event:
    value = data if isinstance(data, bytes | None) else json.dumps(data).encode()
    return decode(list({**HEADERS, **headers}.items()), value)


def test_a_record_becomes_an_event() -> None:
    event = read({**DATA, "channel": "a field that is new"}, ce_new=b"x")
    assert event.order == Order("PAID", "alice", 500, "KRW")
    assert (event.order_id, event.sequence, event.shard) == (ORDER_ID, 2, 2)
    assert event.occurred_at == datetime(2026, 1, 5, 9, 30, 0, 240001, UTC)
    assert event.sha256 == hashlib.sha256(event.payload).digest()


def test_event_of_unknown_type_changes_nothing_whatever_its_value() -> None:
    assert read(b"\xff", ce_type=b"order.shipped.v1").order is None
    assert read(b"\xff", ce_type=b"order.shipped.v7").order is None


@pytest.mark.parametrize(
    ("data", "headers", "reason"),
    [
        (DATA, {"ce_id": None}, "without ce_id"),
        (DATA, {"ce_specversion": b"2.0"}, "CloudEvents 2.0 is unknown"),
        (DATA, {"ce_type": b"order.paid.v2"}, "order.paid.v2 is a version"),
        (DATA, {"ce_id": b"x"}, "an id must be a UUID"),
        (DATA, {"ce_id": b"urn:uuid:" + str(ORDER_ID).encode()}, "an id must be a UUID"),
        (DATA, {"ce_subject": ORDER_ID.hex.encode()}, "an id must be a UUID"),
        (DATA, {"ce_subject": b"\xff"}, "not UTF-8"),
        (DATA, {"ce_time": b"yesterday"}, "the time yesterday must be an RFC 3339"),
        (DATA, {"ce_time": b"20260105T093000Z"}, "must be an RFC 3339"),
        (DATA, {"ce_time": b"2026-01-05T09:30:00"}, "must be an RFC 3339"),
        (DATA, {"ce_time": b"2026-02-30T09:30:00Z"}, "day is out of range"),
        (DATA, {"ce_sequence": b"two"}, "the sequence two"),
        (DATA, {"ce_sequence": b"1_0"}, "the sequence 1_0"),
        (DATA, {"ce_sequence": b" 1"}, "the sequence  1"),
        (DATA, {"ce_sequence": "\u0661".encode()}, "the sequence \u0661"),
        (DATA, {"ce_sequence": b"0"}, "the sequence 0"),
        (DATA, {"ce_sequence": str(2**63).encode()}, "the sequence"),
        (None, {}, "without a value"),
        (b"{", {}, "not JSON"),
        (b'{"status": "PAID", "status": "EXPIRED"}', {}, "there twice"),
        (b'{"lines": [{"quantity": 1, "\\u0071uantity": 2}]}', {}, "there twice"),
        ([], {}, "not an object"),
        ({**DATA, "total_amount": "500"}, {}, "total_amount is '500'"),
        ({**DATA, "total_amount": True}, {}, "total_amount is True"),
        ({**DATA, "total_amount": -1}, {}, "total_amount is -1"),
        ({**DATA, "user_id": "a\0"}, {}, "user_id has a NUL"),
        ({**DATA, "user_id": "\ud800"}, {}, "half of a surrogate pair"),
        (b"[" * 100_000, {}, "not JSON"),
        ({**DATA, "order_id": str(uuid7())}, {}, "belongs to another order"),
    ],
)
def test_unreadable_record_has_a_reason(data: object, headers: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        read(data, **headers)


def test_a_cloudevents_header_given_twice_is_not_read_but_others_may_be() -> None:
    value = json.dumps(DATA).encode()
    with pytest.raises(Undecodable, match="there twice"):
        decode([*HEADERS.items(), ("ce_subject", str(uuid7()).encode())], value)
    assert decode([*HEADERS.items(), ("traceparent", b"1"), ("traceparent", b"\xff")], value).sequence == 2


def test_unreadable_record_is_identified_as_far_as_its_headers_allow() -> None:
    assert identity(list({**HEADERS, "ce_type": b"order.paid.v2"}.items())) == (ORDER_ID, 2)
    assert identity([("ce_subject", str(ORDER_ID).encode())]) == (ORDER_ID, None)
    assert identity([("ce_subject", b"\xff")]) == (None, None)
    assert identity([("ce_subject", str(ORDER_ID).encode()), ("ce_sequence", b"-3")]) == (ORDER_ID, None)


def stream_of(*statuses: str | None, total: int = 500) -> list[Event]:
    """Return the events of a new order; None stands for an event of unknown type."""
    order_id = uuid7()
    return [
        Event(
            uuid7(),
            order_id,
            sequence,
            "order.some.v1",
            datetime(2026, 1, 5, tzinfo=UTC),
            str(sequence).encode(),
            None if status is None else Order(status, "alice", total, "KRW"),
        )
        for sequence, status in enumerate(statuses, 1)
    ]


def states(events: list[Event], **streams: Stream) -> list[str]:
    before = {events[0].order_id: streams["before"]} if streams else {}
    decision = decide(before, events, {})
    return [decision.states[event.event_id] for event in events]


def received(*events: Event) -> Any:
    """Return events as they are stored."""
    names = ("event_id", "order_id", "sequence", "type", "occurred_at", "sha256")
    return [{name: getattr(event, name) for name in names} for event in events]


def test_only_an_event_that_is_not_stored_is_new_and_only_once() -> None:
    known, new = stream_of("PENDING_PAYMENT", "PAID")
    taken, taken_in = sort_out([known, new, new], received(known))
    assert taken_in == [new]
    assert (taken.new, taken.duplicates, taken.contradicting, taken.doubted) == (1, 2, [], set())


def test_contradiction_casts_doubt_on_the_orders_of_both_sides() -> None:
    (known,), (other,) = stream_of("PAID"), stream_of("PAID")
    same_id, same_place = replace(other, event_id=known.event_id), replace(known, event_id=other.event_id)
    for event, doubted in ((same_id, {known.order_id, other.order_id}), (same_place, {known.order_id})):
        taken, taken_in = sort_out([event], received(known))
        assert (taken_in, taken.contradicting) == ([], [event])
        assert taken.doubted == doubted


def test_events_are_applied_in_sequence_and_wait_for_missing_ones() -> None:
    events = stream_of("PENDING_PAYMENT", "PAID", "REFUNDED")
    assert states(events) == ["APPLIED"] * 3
    assert states([events[2], events[0]]) == ["WAITING", "APPLIED"]
    assert states(events[1:], before=Stream(1)) == ["APPLIED"] * 2
    assert states(events, before=Stream(2)) == ["LATE", "LATE", "APPLIED"]


def test_an_event_of_unknown_type_lets_the_stream_go_on() -> None:
    events = stream_of("PENDING_PAYMENT", None, "PAID")
    assert states(events) == ["APPLIED", "IGNORED", "APPLIED"]
    assert decide({}, events[:2], {}).streams[events[0].order_id] == Stream(2, events[0].order)


def test_skipped_events_let_the_stream_continue_up_to_the_next_gap() -> None:
    events = stream_of("PENDING_PAYMENT", "PAID", "REFUNDED")
    order_id = events[0].order_id
    decision = decide({}, [events[2]], {order_id: [1, 2, 3, 4]})
    assert decision.streams[order_id] == Stream(3, events[2].order)
    assert decide({}, [events[2]], {order_id: [1]}).waiting[order_id]
    assert decide({}, [], {order_id: [1]}).streams[order_id] == Stream(0)


def test_sales_count_an_order_by_its_status_whichever_events_arrived() -> None:
    events = stream_of("PENDING_PAYMENT", "PAID", "REFUNDED")
    whole = decide({}, events, {}).sales["KRW"]
    assert whole == Sales(1, 500, 1, 500)
    last = decide({}, events[2:], {events[0].order_id: [1, 2]}).sales["KRW"]
    assert last == whole
    assert decide({}, stream_of("PENDING_PAYMENT", "EXPIRED"), {}).sales["KRW"] == Sales()


async def test_sales_are_written_in_order_of_currency() -> None:
    """Two processes would otherwise lock the rows in different orders."""
    written: dict[str, list[tuple[Any, ...]]] = {}

    class Session:
        async def executemany(self, query: str, rows: list[tuple[Any, ...]]) -> None:
            written[query] = rows

    db: Any = Session()
    await apply(db, Decision(sales={"USD": Sales(1, 5), "KRW": Sales(), "EUR": Sales(1, 7)}), {})
    assert [currency for currency, *_ in written[SQL["add_sales"]]] == ["EUR", "USD"]


@given(st.lists(st.sampled_from([("PAID",), ("PENDING_PAYMENT", "PAID", "REFUNDED")]), max_size=8), st.randoms())
def test_batching_and_shuffling_between_orders_does_not_change_the_result(
    shapes: list[tuple[str, ...]], source: random.Random
) -> None:
    events = [event for shape in shapes for event in stream_of(*shape)]
    whole = decide({}, events, {})
    shuffled = source.sample(events, len(events))
    streams: dict[UUID, Stream] = {}
    waiting: list[Event] = []
    sales = Sales()
    while shuffled:
        batch, shuffled = shuffled[:3], shuffled[3:]
        arrived = [*waiting, *batch]
        decision = decide(streams, arrived, {})
        streams |= decision.streams
        waiting = [event for event in arrived if decision.states[event.event_id] == "WAITING"]
        sales += decision.sales["KRW"]
    assert (streams, waiting, sales) == (whole.streams, [], whole.sales["KRW"])


def test_digest_of_a_minute_does_not_depend_on_the_order_of_arrival() -> None:
    events = [(event.event_id, event.sha256) for event in stream_of("PAID", "REFUNDED", None)]
    expected = hashlib.sha256(b"".join(event_id.bytes + sha256 for event_id, sha256 in sorted(events))).hexdigest()
    assert digest(reversed(events)) == (3, expected)
    assert digest([]) == (0, hashlib.sha256().hexdigest())
    assert digest(events[:2]) != digest(events)


def test_differences_list_missing_extra_and_changed_events() -> None:
    one, two, three = sorted(uuid7() for _ in range(3))
    assert differences({one: b"1", two: b"2"}, {two: b"other", three: b"3"}) == {
        "missing": [one],
        "unexpected": [three],
        "altered": [two],
    }


def test_timestamp_belongs_to_the_minute_in_which_it_lies() -> None:
    timestamp = datetime(2026, 1, 5, 9, 30, 59, 999999, UTC)
    assert minute_of(timestamp) == datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_timestamp_that_may_fall_off_the_calendar_is_refused(year: str) -> None:
    with pytest.raises(ValueError, match="years 2 and 9998"):
        parse_timestamp(f"{year}-06-01T12:00:00Z")


@pytest.mark.parametrize("year", [2, 9998])
def test_timestamp_of_any_other_year_is_read(year: int) -> None:
    assert parse_timestamp(f"{year:04}-06-01T12:00:00Z") == datetime(year, 6, 1, 12, tzinfo=UTC)
