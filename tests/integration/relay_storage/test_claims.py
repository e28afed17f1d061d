"""Claims begin near the end of the published events, and still find everything, each order in sequence."""

import asyncio

import asyncpg
import pytest

from services.relay import store
from tests.infrastructure.pipeline import Event, order_in
from tests.infrastructure.waiting import eventually
from tests.integration.relay_storage.outbox import SHARD, Outbox, ids, ids_of


def event(sequence: int = 1, of: Event | None = None) -> Event:
    """Return an event of a new order, or another event of an order."""
    return Event(of.order_id if of else order_in(SHARD), sequence)


async def an_event_committed_late(outbox: Outbox, late: Event) -> None:
    """Commit `late` after later ids of other orders were published and claims have passed its id."""
    async with outbox.writer() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await late.insert(writer)
        await outbox.write(event(), event())
        assert await outbox.publish() == 2
        await outbox.pass_by()
        await transaction.commit()


async def test_lower_id_that_commits_after_a_higher_one_is_claimed_immediately(outbox: Outbox) -> None:
    first, late, last = event(), event(), event()
    await outbox.write(first)
    async with outbox.writer() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await late.insert(writer)
        await outbox.write(last)
        assert ids(await outbox.cycle()) == ids_of(first, last)
        await transaction.commit()
    await outbox.sweeps(due=False)
    assert ids(await outbox.cycle()) == ids_of(late)


async def test_event_committed_behind_the_claims_is_found_by_the_next_sweep(outbox: Outbox) -> None:
    late = event()
    await an_event_committed_late(outbox, late)
    await outbox.sweeps(due=False)
    assert await outbox.cycle() == []
    await outbox.sweeps(due=True)
    assert ids(await outbox.cycle()) == ids_of(late)


async def test_later_event_of_an_order_waits_for_one_behind_the_claims(outbox: Outbox) -> None:
    late, other = event(), event()
    await an_event_committed_late(outbox, late)
    second, third = event(2, late), event(3, late)
    await outbox.write(second, other)
    await outbox.write(third)
    await outbox.sweeps(due=False)
    assert ids(await outbox.cycle()) == ids_of(other)
    await outbox.sweeps(due=True)
    assert ids(await outbox.cycle()) == ids_of(late, second, third)


async def test_later_event_waits_when_a_limit_splits_its_order(outbox: Outbox) -> None:
    late = event()
    await an_event_committed_late(outbox, late)
    second, third = event(2, late), event(3, late)
    await outbox.write(second, third)
    claimed = []
    for due in (False, True, False, False, True, True):
        await outbox.sweeps(due=due)
        claimed += ids(await outbox.cycle(events_max=1))
    assert claimed == ids_of(late, second, third)


async def test_later_event_waits_for_one_in_an_older_partition(outbox: Outbox) -> None:
    late = event()
    await an_event_committed_late(outbox, late)
    await outbox.rotate()
    second = event(2, late)
    await outbox.write(second)
    await store.note_published(outbox.relay)
    await outbox.sweeps(due=False)
    assert await outbox.cycle() == []
    await outbox.sweeps(due=True)
    assert ids(await outbox.cycle()) == ids_of(late, second)


async def test_event_is_claimed_after_earlier_ones_of_its_order_were_dropped(outbox: Outbox) -> None:
    first = event()
    await outbox.write(first)
    await outbox.rotate()
    await outbox.publish()
    await store.note_published(outbox.relay)
    assert await store.drop_published(outbox.relay, 0) == 0
    await outbox.pass_by()
    second = event(2, first)
    await outbox.write(second)
    assert ids(await outbox.cycle()) == ids_of(second)


@pytest.mark.parametrize("in_transaction", [True, False])
async def test_claim_of_a_dead_relay_is_claimed_again_by_the_next(outbox: Outbox, in_transaction: bool) -> None:
    first_events = [event() for _ in range(3)]
    await outbox.write(*first_events)
    assert ids(await outbox.cycle(in_transaction=in_transaction)) == ids_of(*first_events)
    # As if claims had passed far beyond it before the relay died.
    await outbox.root.execute("UPDATE relay.shards SET scan_from = 1 << 30, scan_next = 1 << 30")
    lease = await outbox.take(replica="two")
    assert lease.claimed == (3 if in_transaction else 0)
    if in_transaction:
        outbox.numbers[SHARD] = await store.unclaim(outbox.relay, lease)
    await outbox.sweeps(due=False)
    assert ids(await outbox.cycle(in_transaction=in_transaction)) == ids_of(*first_events)


async def test_a_take_over_between_an_order_s_events_keeps_them_in_sequence(outbox: Outbox) -> None:
    late = event()
    await an_event_committed_late(outbox, late)
    second = event(2, late)
    await outbox.write(second)
    await outbox.sweeps(due=False)
    assert await outbox.cycle() == []
    await outbox.take(replica="two")
    assert ids(await outbox.cycle()) == ids_of(late, second)


async def test_retried_event_behind_the_claims_is_found(outbox: Outbox) -> None:
    parked = event()
    await outbox.write(parked)
    await outbox.root.execute("UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x'")
    await outbox.write(follower := event(2, parked), event())
    assert await outbox.publish() == 1
    await outbox.pass_by()
    acted = "SELECT FROM relay.act_on_parked('retry', $1, 'sue', 'try', false)"
    await outbox.relay.execute(acted, parked.order_id)
    await outbox.sweeps(due=True)
    assert ids(await outbox.cycle()) == ids_of(parked, follower)


async def test_idle_shard_is_woken_for_an_event_behind_the_claims(outbox: Outbox) -> None:
    assert await store.shards_with_pending(outbox.relay, [SHARD]) == []
    late = event()
    await an_event_committed_late(outbox, late)
    await outbox.sweeps(due=False)
    assert await store.shards_with_pending(outbox.relay, [SHARD]) == []
    await outbox.sweeps(due=True)
    assert await store.shards_with_pending(outbox.relay, [SHARD]) == [SHARD]
    await outbox.publish()
    assert await store.shards_with_pending(outbox.relay, [SHARD]) == []
    # If a sweep takes long, only a cycle may run it, so the shard is woken for it.
    await outbox.root.execute("UPDATE relay.shards SET sweep_at = '-infinity', sweep_took = '1 second'")
    assert await store.shards_with_pending(outbox.relay, [SHARD]) == [SHARD]


async def test_claims_skip_published_events_even_if_every_second_one_is_empty(outbox: Outbox) -> None:
    last = 0
    for _ in range(4):
        (last,) = await outbox.write(event())
        assert len(await outbox.cycle()) == 1
        await outbox.root.execute("UPDATE relay.shards SET scan_moved_at = '-infinity'")
        assert await outbox.cycle() == []
    assert await outbox.root.fetchval("SELECT scan_next FROM relay.shards WHERE shard = $1", SHARD) == last


async def test_cycle_that_waited_for_its_row_keeps_its_claim(outbox: Outbox) -> None:
    first_event = event()
    await outbox.write(first_event)
    await outbox.take()
    transaction = outbox.root.transaction()
    await transaction.start()
    for _ in range(2):  # two later row versions, and one that was only locked
        await outbox.root.execute("UPDATE relay.shards SET scan_floor = 0")
    waiting = asyncio.create_task(outbox.cycle())
    blocked = "SELECT pid FROM pg_locks WHERE NOT granted AND pid = $1"
    pid = outbox.relay.get_server_pid()
    await eventually(lambda: outbox.order.fetch(blocked, pid), 10, "the cycle that waits")
    await transaction.commit()
    assert ids(await waiting) == ids_of(first_event)
    assert await outbox.root.fetchval("SELECT outbox_ids FROM relay.shards WHERE shard = $1", SHARD) == [1]
    await outbox.cycle()
    assert await outbox.statuses() == [(0, "SENT")]


async def test_slow_sweep_is_rarely_repeated(outbox: Outbox) -> None:
    await outbox.write(event())
    await outbox.publish()
    await outbox.pass_by()
    await outbox.sweeps(due=True)
    await outbox.cycle()
    share = await outbox.root.fetchval(
        "SELECT sweep_took / 1.0 < (sweep_at - clock_timestamp() + sweep_took) / 10 OR sweep_took < '1 ms' "
        "FROM relay.shards WHERE shard = $1",
        SHARD,
    )
    assert share


async def reads(relay: asyncpg.Connection) -> dict[str, tuple[int, int]]:
    """Return the scans, and the rows that they read, of each partition that this connection has read recently."""
    rows = await relay.fetch("""
        SELECT relname, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) AS scans,
               coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS rows
        FROM pg_stat_xact_all_tables WHERE schemaname = 'orders' AND relname ~ '^outbox_[0-9]'
    """)
    return {row["relname"]: (row["scans"], row["rows"]) for row in rows}


@pytest.mark.parametrize("analyzed", ["never", "while all waited", "when all was sent"])
async def test_cycle_reads_only_pending_events_of_live_partitions(outbox: Outbox, analyzed: str) -> None:
    many = [event() for _ in range(300)]
    for _ in range(4):
        await outbox.write(*(event() for _ in range(50)))
        await outbox.rotate()
    await outbox.write(*many)
    if analyzed == "while all waited":
        await outbox.root.execute("ANALYZE orders.outbox")
    await outbox.publish()
    if analyzed == "when all was sent":
        await outbox.root.execute("ANALYZE orders.outbox")
    await store.note_published(outbox.relay)
    await outbox.pass_by()
    await outbox.write(*(event(2, order) for order in many[:100]), *(event() for _ in range(100)))
    await outbox.cycle(events_max=10)
    await outbox.sweeps(due=True)
    async with outbox.relay.transaction():
        before = await reads(outbox.relay)
        assert len(await outbox.cycle(events_max=10)) == 10
        after = await reads(outbox.relay)
    read = {name: (scans, rows) for name, (scans, rows) in after.items() if (scans, rows) != before.get(name, (0, 0))}
    # Partition 4 is being filled; the four before it are completely published.
    assert set(read) == {"outbox_4"}
    # Ten events are marked, ten are claimed, and each of their orders has one earlier event. The cycle doesn't read all
    # 300 sent or all 200 pending events.
    assert sum(rows - before.get(name, (0, 0))[1] for name, (_, rows) in read.items()) <= 60, (before, after)
