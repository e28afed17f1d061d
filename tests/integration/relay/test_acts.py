"""Operators' acts on parked events: retry, skip, redact. Each is guarded, fenced against the relays, and recorded."""

import asyncio
import json

import asyncpg
import pytest
from jsonschema import Draft202012Validator

from services.relay import store
from services.relay.admin import acts
from services.relay.domain.refusals import EventNotFirst, EventNotParked, NothingToRedact
from services.relay.schemas import schema_of
from shared.contracts.events import OrderPaid
from shared.ids import uuid7
from shared.refusals import Refusal
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.waiting import eventually
from tests.integration.relay.operators import (
    SUE,
    act,
    an_order,
    event_statuses,
    operating,
    park,
    parked_order,
    statuses_of,
)
from tests.integration.relay.test_parking import TOPIC_BYTES_MAX, narrow_topic, parked

NAMES: tuple[acts.Name, ...] = ("retry", "skip", "redact")


async def recorded(pipeline: Pipeline) -> list[tuple[str, str, str, int]]:
    rows = await pipeline.connection.fetch("SELECT * FROM relay.operator_acts ORDER BY act_id")
    return [(row["actor"], row["act"], row["reason"], json.loads(row["detail"])["sequence"]) for row in rows]


async def test_parked_events_are_listed_with_reason_and_first_event(pipeline: Pipeline) -> None:
    events = await parked_order(pipeline, 2)
    async with operating(pipeline) as pool:
        first, second = await acts.list_parked(pool)
    assert (first["order_id"], first["event_id"]) == (str(events[0].order_id), str(events[0].event_id))
    assert (first["first"], first["parked_reason"]) == (True, "MessageSizeTooLargeError")
    assert (second["first"], second["sequence"]) == (False, 2)


@pytest.mark.parametrize("by", ["order", "first event", "last event"])
async def test_retry_gives_back_all_parked_events_of_one_order_only(pipeline: Pipeline, by: str) -> None:
    mine, others = await parked_order(pipeline, 3), await parked_order(pipeline, 1)
    id_ = {"order": mine[0].order_id, "first event": mine[0].event_id, "last event": mine[2].event_id}[by]
    assert await act(pipeline, "retry", id_) == [1, 2, 3]
    assert await statuses_of(pipeline, mine[0].order_id) == ["PENDING"] * 3
    assert await statuses_of(pipeline, others[0].order_id) == ["PARKED"]
    assert await recorded(pipeline) == [("sue", "retry", "a test", 1)]


async def test_retry_all_gives_back_every_order_and_records_each(pipeline: Pipeline) -> None:
    orders = [await parked_order(pipeline, 2, shard=shard) for shard in range(3)]
    async with operating(pipeline) as pool:
        assert len(await acts.retry_all(pool, SUE, dry_run=True)) == 6
        assert await pipeline.statuses() == {"PARKED": 6}
        assert len(await acts.retry_all(pool, SUE)) == 6
    assert await pipeline.statuses() == {"PENDING": 6}
    assert len(await recorded(pipeline)) == len(orders)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_retry_all_retries_more_orders_than_a_page(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, *, dry_run: bool
) -> None:
    monkeypatch.setattr(acts, "PAGE_ORDERS", 2)
    orders = [await parked_order(pipeline, 1, shard=number % 4) for number in range(5)]
    async with operating(pipeline) as pool:
        found = await acts.retry_all(pool, SUE, dry_run=dry_run)
    assert [event["order_id"] for event in found] == sorted(str(event.order_id) for (event,) in orders)
    assert await pipeline.statuses() == {"PARKED" if dry_run else "PENDING": 5}


async def test_retried_events_are_published_immediately_and_in_sequence(pipeline: Pipeline) -> None:
    events = await parked_order(pipeline, 3)
    async with pipeline.relay(poll_interval_seconds=30) as _, pipeline.reader() as reader:
        await pipeline.until_held()
        await act(pipeline, "retry", events[0].order_id)
        await pipeline.until_sent(3)
        assert [identity(record) for record in await reader.to_the_end()] == expected(events)


async def test_skip_gives_up_the_first_event_and_gives_the_others_back(pipeline: Pipeline) -> None:
    events = await parked_order(pipeline, 3)
    async with pipeline.relay(), pipeline.reader() as reader:
        assert await act(pipeline, "skip", events[0].event_id) == [1]
        await pipeline.until_sent(2)
        late = Event(events[0].order_id, 4)
        await write(pipeline.connection, [late])
        await pipeline.until_sent(3)
        assert [identity(record) for record in await reader.to_the_end()] == expected([*events[1:], late])
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "SENT", "SENT", "SENT"]
    assert await recorded(pipeline) == [("sue", "skip", "a test", 1)]


async def test_skip_with_an_order_id_skips_its_first_parked_event(pipeline: Pipeline) -> None:
    events = await parked_order(pipeline, 2)
    await act(pipeline, "skip", events[0].order_id)
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "PENDING"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_event_behind_another_cannot_be_skipped(pipeline: Pipeline, *, dry_run: bool) -> None:
    events = await parked_order(pipeline, 2)
    with pytest.raises(EventNotFirst):
        await act(pipeline, "skip", events[1].event_id, dry_run=dry_run)
    assert await statuses_of(pipeline, events[0].order_id) == ["PARKED", "PARKED"]
    assert await recorded(pipeline) == []


async def test_a_redacted_event_has_no_lines_fits_its_schema_and_stays_parked(pipeline: Pipeline) -> None:
    original = an_order(lines=50)
    (event,) = await parked_order(pipeline, 1, payload=original)
    assert await act(pipeline, "redact", event.event_id) == [1]
    payload = await pipeline.connection.fetchval("SELECT payload FROM orders.outbox")
    assert json.loads(payload) == json.loads(original) | {"lines": [], "redacted": True}
    assert len(payload) < 1000 < len(original)
    Draft202012Validator(schema_of("order.paid.v1")).validate(json.loads(payload))
    OrderPaid.model_validate_json(payload)
    assert await statuses_of(pipeline, event.order_id) == ["PARKED"]
    assert await recorded(pipeline) == [("sue", "redact", "a test", 1)]


@pytest.mark.parametrize(
    "payload", [b"x", b"\xff\xfe", b"[]", b'"x"', b"{}", b'{"lines": 1}', b'{"lines": ["\\u0000"]}']
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_event_without_lines_cannot_be_redacted(pipeline: Pipeline, payload: bytes, *, dry_run: bool) -> None:
    (event,) = await parked_order(pipeline, 1, payload=payload)
    with pytest.raises(NothingToRedact):
        await act(pipeline, "redact", event.event_id, dry_run=dry_run)
    assert await pipeline.connection.fetchval("SELECT payload FROM orders.outbox") == payload
    assert await recorded(pipeline) == []


async def test_an_event_is_redacted_once(pipeline: Pipeline) -> None:
    (event,) = await parked_order(pipeline, 1)
    await act(pipeline, "redact", event.event_id)
    with pytest.raises(NothingToRedact):
        await act(pipeline, "redact", event.event_id)
    assert len(await recorded(pipeline)) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_dry_run_returns_the_events_and_changes_nothing(pipeline: Pipeline, name: acts.Name) -> None:
    events = await parked_order(pipeline, 2)
    before = await pipeline.connection.fetch("SELECT * FROM orders.outbox")
    would = await act(pipeline, name, events[0].event_id, dry_run=True)
    assert await pipeline.connection.fetch("SELECT * FROM orders.outbox") == before
    assert await recorded(pipeline) == []
    assert await act(pipeline, name, events[0].event_id) == would


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_event_that_is_not_parked_refuses_every_act(
    pipeline: Pipeline, name: acts.Name, *, dry_run: bool
) -> None:
    pending, skipped = Event(order_in(0), 1), Event(order_in(0), 1)
    await write(pipeline.connection, [pending, skipped])
    await park(pipeline.connection, skipped)
    await act(pipeline, "skip", skipped.event_id)
    before = await event_statuses(pipeline)
    for id_ in (pending.event_id, pending.order_id, skipped.event_id, skipped.order_id, uuid7()):
        with pytest.raises(EventNotParked):
            await act(pipeline, name, id_, dry_run=dry_run)
    assert await event_statuses(pipeline) == before
    assert len(await recorded(pipeline)) == 1


async def test_act_waits_for_the_shard_and_then_uses_its_current_state(pipeline: Pipeline) -> None:
    """A relay's cycle parks a later event of the order while the act waits."""
    events = await parked_order(pipeline, 1)
    late = Event(events[0].order_id, 2)
    await write(pipeline.connection, [late])
    cycle = await asyncpg.connect(pipeline.url)
    try:
        async with cycle.transaction():
            await cycle.execute("SELECT FROM relay.shards WHERE shard = 0 FOR UPDATE")
            acting = asyncio.create_task(act(pipeline, "retry", late.order_id))
            waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
            await eventually(lambda: pipeline.connection.fetchval(waiting), 10, "the act waits for the shard")
            await park(cycle, late)
        assert await acting == [1, 2]
    finally:
        await cycle.close()
    assert await pipeline.statuses() == {"PENDING": 2}


async def test_one_of_many_concurrent_acts_on_an_event_is_done(pipeline: Pipeline) -> None:
    (event,) = await parked_order(pipeline, 1)
    results = await asyncio.gather(
        *(act(pipeline, name, event.event_id) for name in ("retry", "skip") * 5), return_exceptions=True
    )
    assert [result for result in results if not isinstance(result, Refusal)] == [[1]]
    assert len(await recorded(pipeline)) == 1


async def test_outdated_refusal_parks_nothing(pipeline: Pipeline) -> None:
    """A replica that lost the shard still has the refused event in memory; another parked it, and an operator acted."""
    events = await parked_order(pipeline, 2)
    outbox_id = await pipeline.connection.fetchval("SELECT min(outbox_id) FROM orders.outbox")
    await act(pipeline, "skip", events[0].event_id)
    async with operating(pipeline) as pool, pool.connection() as connection:
        lease = await store.take_lease(connection, 0, "late", 5)
        assert lease is not None
        assert await store.park(connection, lease, outbox_id, "too large") == 0
    assert await statuses_of(pipeline, events[0].order_id) == ["SKIPPED", "PENDING"]


async def test_relay_role_can_redact_a_parked_event_and_change_no_other_payload(pipeline: Pipeline) -> None:
    event = Event(order_in(0), 1, payload=an_order())
    await write(pipeline.connection, [event])
    outbox_id = await pipeline.connection.fetchval("SELECT outbox_id FROM orders.outbox")
    connection = await asyncpg.connect(pipeline.url)
    try:
        assert await connection.fetchval("SELECT orders.redact_event($1)", outbox_id) is False
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE orders.outbox SET payload = 'x' WHERE outbox_id = $1", outbox_id)
    finally:
        await connection.close()
    assert await pipeline.connection.fetchval("SELECT payload FROM orders.outbox") == event.payload


async def test_event_too_large_for_the_topic_is_published_once_redacted(real_pipeline: Pipeline) -> None:
    large = Event(order_in(2), 1, payload=an_order(lines=300))
    small = Event(large.order_id, 2, payload=an_order())
    assert len(large.payload) > TOPIC_BYTES_MAX
    async with narrow_topic(real_pipeline), real_pipeline.relay(), real_pipeline.reader() as reader:
        await write(real_pipeline.connection, [large, small])
        await eventually(lambda: parked(real_pipeline), 20, "parked events")
        await act(real_pipeline, "redact", large.event_id)
        await act(real_pipeline, "retry", large.order_id)
        await real_pipeline.until_sent(2)
        records = await reader.to_the_end()
    assert [identity(record) for record in records] == expected([large, small])
    assert [json.loads(record.value).get("redacted") for record in records] == [True, None]


async def test_retried_event_that_is_refused_again_parks_its_order_again(real_pipeline: Pipeline) -> None:
    large = Event(order_in(2), 1, payload=an_order(lines=300))
    async with narrow_topic(real_pipeline), real_pipeline.relay():
        await write(real_pipeline.connection, [large, Event(large.order_id, 2)])
        for _ in range(2):
            await eventually(lambda: parked(real_pipeline), 20, "parked events")
            await act(real_pipeline, "retry", large.order_id)
        await eventually(lambda: parked(real_pipeline), 20, "parked events")
    assert [sequence for _, sequence, _ in await parked(real_pipeline)] == [1, 2]
