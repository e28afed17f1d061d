"""The guards in a shard's row, call by call: a replica without a right to the shard changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from services.relay import store
from services.relay.domain.shards import Lease, LeaseLost, ShardLocked
from tests.infrastructure.databases import Database
from tests.infrastructure.locks import waits
from tests.infrastructure.pipeline import Event, order_in
from tests.infrastructure.services import migrate_service
from tests.integration.relay_storage.outbox import SHARD, Outbox, connected, ids, ids_of


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """One database for all tests: none of them adds or drops a partition."""
    for name in ("order", "relay"):
        migrate_service(name, database)
    return database


@pytest.fixture
async def outbox(migrated: Database) -> AsyncIterator[Outbox]:
    roles = {"relay": migrated.as_role("relay_service"), "order": migrated.as_role("order_service")}
    async with connected(migrated.url, **roles) as outbox:
        await outbox.root.execute("""
            TRUNCATE orders.outbox RESTART IDENTITY;
            TRUNCATE relay.shards, relay.replicas;
            INSERT INTO relay.shards (shard) SELECT generate_series(0, 3);
        """)
        yield outbox


async def row(outbox: Outbox) -> dict[str, Any]:
    found = await outbox.root.fetchrow("SELECT * FROM relay.shards WHERE shard = $1", SHARD)
    assert found is not None
    return dict(found)


async def change(outbox: Outbox, assignments: str) -> None:
    await outbox.root.execute(f"UPDATE relay.shards SET {assignments} WHERE shard = $1", SHARD)


async def take(outbox: Outbox, replica: str, *, by_force: bool = False) -> Lease | None:
    return await store.take_lease(outbox.relay, SHARD, replica, 60, by_force=by_force)


async def overtaken(outbox: Outbox) -> Lease:
    """Return a lease whose shard another replica has since taken."""
    old = await outbox.take()
    await outbox.take(replica="two")
    return old


async def status_of(outbox: Outbox, *events: Event) -> list[str]:
    query = "SELECT status FROM orders.outbox WHERE event_id = $1"
    return [await outbox.root.fetchval(query, event.event_id) for event in events]


@asynccontextmanager
async def locked(outbox: Outbox, query: str, *arguments: object) -> AsyncIterator[asyncpg.Connection]:
    """Keep rows locked in another session."""
    other = await asyncpg.connect(outbox.root_url)
    try:
        async with other.transaction():
            await other.execute(query, *arguments)
            yield other
    finally:
        await other.close()


LOCK_ROW = "SELECT FROM relay.shards WHERE shard = $1 FOR UPDATE"


async def test_shard_of_another_replica_is_not_taken(outbox: Outbox) -> None:
    assert await take(outbox, "one")
    assert await take(outbox, "two") is None
    assert await take(outbox, "two", by_force=True)


@pytest.mark.parametrize(
    "free", ["holder = NULL, lease_expires_at = 'infinity'", "lease_expires_at = '-infinity'"], ids=["nobody", "over"]
)
async def test_shard_without_a_valid_lease_is_taken(outbox: Outbox, free: str) -> None:
    await take(outbox, "one")
    await change(outbox, free)
    lease = await take(outbox, "two")
    assert lease is not None
    assert lease.epoch == 2


async def test_holder_whose_lease_is_over_is_none(outbox: Outbox) -> None:
    await take(outbox, "one")
    assert (await store.shards(outbox.relay))[SHARD].holder == "one"
    await change(outbox, "lease_expires_at = '-infinity'")
    assert (await store.shards(outbox.relay))[SHARD].holder is None


async def test_replica_takes_its_own_shard_again(outbox: Outbox) -> None:
    await take(outbox, "one")
    assert await take(outbox, "one")


async def test_batch_sent_without_a_transaction_is_claimed_again_by_the_next_holder(outbox: Outbox) -> None:
    for in_transaction, claimed in ((True, 2), (False, 0)):
        await change(outbox, f"outbox_ids = '{{1,2}}', in_transaction = {in_transaction}")
        lease = await take(outbox, "one")
        assert lease is not None
        assert lease.claimed == claimed


async def test_next_holder_looks_from_the_floor_again(outbox: Outbox) -> None:
    await change(outbox, "scan_floor = 5, scan_from = 100, scan_next = 100")
    await take(outbox, "one")
    found = await row(outbox)
    assert (found["scan_from"], found["scan_next"]) == (5, 5)


async def test_overtaken_replica_changes_nothing_of_the_shard(outbox: Outbox) -> None:
    old = await overtaken(outbox)
    await change(outbox, "batch_number = 1, outbox_ids = '{1}', in_transaction = true")
    before = await row(outbox)
    old = replace(old, number=1)
    await store.release_lease(outbox.relay, old)
    for call in (store.check_lease, store.unclaim, store.declare):
        with pytest.raises(LeaseLost):
            await call(outbox.relay, old)
    with pytest.raises(LeaseLost):
        await store.note_transactional_id(outbox.relay, old, "late")
    assert await row(outbox) == before


@pytest.mark.parametrize(
    "state", ["batch_number = 3", "in_transaction = false", "outbox_ids = '{}'"], ids=["number", "transaction", "none"]
)
async def test_only_the_batch_of_the_lease_is_unclaimed(outbox: Outbox, state: str) -> None:
    await change(outbox, "batch_number = 2, outbox_ids = '{1}', in_transaction = true")
    lease = await outbox.take()
    await change(outbox, state)
    with pytest.raises(LeaseLost):
        await store.unclaim(outbox.relay, lease)


async def test_refused_event_is_parked_with_the_later_ones_of_its_order(outbox: Outbox) -> None:
    order_id = order_in(SHARD)
    events = [Event(order_id, sequence) for sequence in (1, 2, 3, 4)]
    other = Event(order_in(SHARD), 1)
    _, refused, _, given_up, _ = await outbox.write(*events, other)
    lease = await outbox.take()
    await outbox.root.execute("UPDATE orders.outbox SET status = 'SKIPPED' WHERE outbox_id = $1", given_up)
    assert await store.park(outbox.relay, lease, refused, "too large") == 2
    assert await status_of(outbox, *events, other) == ["PENDING", "PARKED", "PARKED", "SKIPPED", "PENDING"]


async def test_event_that_an_operator_gave_up_meanwhile_is_not_parked_nor_those_behind_it(outbox: Outbox) -> None:
    order_id = order_in(SHARD)
    events = [Event(order_id, sequence) for sequence in (1, 2)]
    refused, _ = await outbox.write(*events)
    lease = await outbox.take()
    await outbox.root.execute("UPDATE orders.outbox SET status = 'SKIPPED' WHERE outbox_id = $1", refused)
    assert await store.park(outbox.relay, lease, refused, "too large") == 0
    assert await status_of(outbox, *events) == ["SKIPPED", "PENDING"]


async def test_overtaken_replica_parks_nothing_nor_does_one_with_a_claimed_batch(outbox: Outbox) -> None:
    event = Event(order_in(SHARD), 1)
    (outbox_id,) = await outbox.write(event)
    assert await store.park(outbox.relay, await overtaken(outbox), outbox_id, "late") == 0
    lease = await outbox.take()
    await change(outbox, "outbox_ids = '{1}'")
    assert await store.park(outbox.relay, lease, outbox_id, "claimed") == 0
    assert await status_of(outbox, event) == ["PENDING"]


async def test_parking_waits_for_an_operator_who_acts_on_the_shard(outbox: Outbox) -> None:
    (outbox_id,) = await outbox.write(Event(order_in(SHARD), 1))
    lease = await outbox.take()
    async with locked(outbox, LOCK_ROW, SHARD):
        parking = await waits(outbox.root, store.park(outbox.relay, lease, outbox_id, "too large"))
    assert await parking == 1


async def test_replicas_that_are_dead_are_not_live_and_forgotten_after_an_hour(outbox: Outbox) -> None:
    for replica, seconds in (("live", 60), ("dead", -60), ("gone", -7200), ("own", 60)):
        await store.keep_replica(outbox.relay, replica, seconds)
    assert await store.live_replicas(outbox.relay) == ["live", "own"]
    await store.forget_replicas(outbox.relay, "own")
    left = await outbox.root.fetch("SELECT replica FROM relay.replicas ORDER BY replica")
    assert [row["replica"] for row in left] == ["dead", "live"]


async def cycle(outbox: Outbox, lease: Lease, number: int, **changes: Any) -> list[str]:
    """Call a cycle; return the ids of the claimed events."""
    bounds: dict[str, Any] = {"lease_seconds": 60, "events_max": 10, "bytes_max": 1 << 20, "in_transaction": True}
    return ids(await store.cycle(outbox.relay, lease, number, **(bounds | changes)))


@pytest.mark.parametrize(("epochs", "numbers"), [(1, 0), (0, 1), (0, -1)])
async def test_cycle_of_another_tenure_or_batch_does_nothing(outbox: Outbox, epochs: int, numbers: int) -> None:
    await outbox.write(Event(order_in(SHARD), 1))
    await change(outbox, "batch_number = 5")
    lease = await outbox.take()
    before = await row(outbox)
    with pytest.raises(LeaseLost):
        await cycle(outbox, replace(lease, epoch=lease.epoch - epochs), 5 + numbers)
    assert await row(outbox) == before


async def test_cycle_waits_for_the_shard_row_s_lock_and_then_renews_the_lease(outbox: Outbox) -> None:
    lease = await outbox.take()
    async with locked(outbox, LOCK_ROW, SHARD) as other:
        cycling = await waits(outbox.root, cycle(outbox, lease, 0))
        full_lease = await other.fetchval("SELECT clock_timestamp() + interval '60 s'")
    assert await cycling == []
    assert (await row(outbox))["lease_expires_at"] >= full_lease


async def test_cycle_marks_only_what_still_waits(outbox: Outbox) -> None:
    events = [Event(order_in(SHARD), 1) for _ in range(2)]
    _, given_up = await outbox.write(*events)
    lease = await outbox.take()
    assert await cycle(outbox, lease, 0) == ids_of(*events)
    await outbox.root.execute("UPDATE orders.outbox SET status = 'SKIPPED' WHERE outbox_id = $1", given_up)
    await cycle(outbox, lease, 1)
    assert await status_of(outbox, *events) == ["SENT", "SKIPPED"]


async def test_event_behind_a_parked_one_is_parked_and_one_before_it_claimed(outbox: Outbox) -> None:
    order_id = order_in(SHARD)
    before, parked, behind, given_up = events = [Event(order_id, sequence) for sequence in (1, 2, 3, 4)]
    _, outbox_id, _, last = await outbox.write(*events)
    await outbox.root.execute("UPDATE orders.outbox SET status = 'SKIPPED' WHERE outbox_id = $1", last)
    await outbox.root.execute(
        "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x' WHERE outbox_id = $1",
        outbox_id,
    )
    assert await cycle(outbox, await outbox.take(), 0) == ids_of(before)
    assert await status_of(outbox, parked, behind, given_up) == ["PARKED", "PARKED", "SKIPPED"]


async def test_event_that_joins_a_parked_order_during_a_cycle_is_not_claimed(outbox: Outbox) -> None:
    """The cycle parks followers in one statement and claims in a later one, which sees events committed between."""
    order_id = order_in(SHARD)
    parked, behind, late = [Event(order_id, sequence) for sequence in (1, 2, 3)]
    first, second = await outbox.write(parked, behind)
    await outbox.root.execute(
        "UPDATE orders.outbox SET status = 'PARKED', parked_at = now(), parked_reason = 'x' WHERE outbox_id = $1", first
    )
    lease = await outbox.take()
    async with locked(outbox, "SELECT FROM orders.outbox WHERE outbox_id = $1 FOR UPDATE", second):
        cycling = await waits(outbox.root, cycle(outbox, lease, 0))
        await outbox.write(late)
    assert await cycling == []


@pytest.mark.parametrize(("bytes_max", "count"), [(250, 2), (10, 1)])
async def test_claim_is_bounded_in_bytes_and_never_empty(outbox: Outbox, bytes_max: int, count: int) -> None:
    await outbox.write(*[Event(order_in(SHARD), 1, payload=b"x" * 100) for _ in range(3)])
    assert len(await cycle(outbox, await outbox.take(), 0, bytes_max=bytes_max)) == count


@pytest.mark.parametrize(("in_transaction", "written", "number"), [(True, 1, 1), (True, 0, 0), (False, 1, 0)])
async def test_only_a_batch_of_a_transaction_has_a_number(
    outbox: Outbox, written: int, number: int, *, in_transaction: bool
) -> None:
    await outbox.write(*[Event(order_in(SHARD), 1) for _ in range(written)])
    await cycle(outbox, await outbox.take(), 0, in_transaction=in_transaction)
    found = await row(outbox)
    assert (found["batch_number"], found["declared"]) == (number, in_transaction)


async def test_sweep_costs_a_fiftieth_of_the_time_at_the_most(outbox: Outbox) -> None:
    lease = await outbox.take()
    await change(outbox, "scan_from = 100, sweep_at = '-infinity'")
    began = await outbox.root.fetchval("SELECT clock_timestamp()")
    await cycle(outbox, lease, 0)
    found = await row(outbox)
    assert found["sweep_at"] - began > 49 * found["sweep_took"]
    await change(outbox, "sweep_at = 'infinity', sweep_took = '1 hour'")
    await cycle(outbox, lease, 0)
    assert (await row(outbox))["sweep_took"].total_seconds() == 3600, "none is due"


async def test_cycles_of_several_shards_do_not_wait_long_for_a_row_that_is_kept(outbox: Outbox) -> None:
    lease = await outbox.take()
    bounds: dict[str, Any] = {"lease_seconds": 60, "events_max": 10, "bytes_max": 1 << 20, "lock_seconds": 0.05}
    async with locked(outbox, LOCK_ROW, SHARD):
        with pytest.raises(ShardLocked):
            await asyncio.wait_for(store.cycle_together(outbox.relay, {lease: 0}, **bounds), 2)


async def test_cycles_of_several_shards_lock_their_rows_in_one_order(outbox: Outbox) -> None:
    """Two replicas that both believe to have the same shards could deadlock."""
    leases = [await outbox.take(shard) for shard in (1, 0)]
    bounds: dict[str, Any] = {"lease_seconds": 60, "events_max": 10, "bytes_max": 1 << 20, "lock_seconds": 5}
    async with locked(outbox, LOCK_ROW, 0) as other:
        cycling = await waits(outbox.root, store.cycle_together(outbox.relay, dict.fromkeys(leases, 0), **bounds))
        await other.execute("SET LOCAL lock_timeout = '1s'; SELECT FROM relay.shards WHERE shard = 1 FOR UPDATE")
    assert set(await cycling) == {0, 1}
