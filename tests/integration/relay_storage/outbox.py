"""An outbox that tests write like the order service and read like the relay, without a broker: claimed events count
as published."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from services.relay import store
from services.relay.domain.events import OutboxEvent
from services.relay.domain.shards import Lease
from tests.infrastructure.pipeline import Event

LEASE_SECONDS = 60.0
SHARD = 0


@dataclass
class Outbox:
    """`root` is a superuser's connection, `relay` one with the relay's role, `order` one with the order service's."""

    url: str
    root_url: str
    root: asyncpg.Connection
    relay: asyncpg.Connection
    order: asyncpg.Connection
    leases: dict[int, Lease] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    async def write(self, *events: Event) -> list[int]:
        """Commit events in one transaction; return their ids."""
        async with self.order.transaction():
            return [await event.insert(self.order) for event in events]

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[asyncpg.Connection]:
        """Open another connection of the order service."""
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def take(self, shard: int = SHARD, replica: str = "one") -> Lease:
        """Take a shard by force."""
        lease = await store.take_lease(self.relay, shard, replica, LEASE_SECONDS, by_force=True)
        assert lease is not None
        self.leases[shard], self.numbers[shard] = lease, lease.number
        return lease

    async def cycle(
        self, shard: int = SHARD, events_max: int = 1000, *, in_transaction: bool = True
    ) -> list[OutboxEvent]:
        """Mark the claimed events SENT and claim the next ones."""
        lease = self.leases.get(shard) or await self.take(shard)
        events = await store.cycle(
            self.relay,
            lease,
            self.numbers[shard],
            lease_seconds=LEASE_SECONDS,
            events_max=events_max,
            bytes_max=1 << 24,
            in_transaction=in_transaction,
        )
        self.numbers[shard] += bool(events) and in_transaction
        return events

    async def publish(self, *shards: int) -> int:
        """Publish all pending events of the shards; return how many."""
        published = 0
        for shard in shards or (SHARD,):
            while events := await self.cycle(shard):
                published += len(events)
        return published

    async def pass_by(self, shard: int = SHARD) -> None:
        """Advance the claims' start, as after a second; sweeps excepted."""
        for _ in range(2):
            await self.root.execute("UPDATE relay.shards SET scan_moved_at = '-infinity' WHERE shard = $1", shard)
            await self.cycle(shard)

    async def sweeps(self, *, due: bool, shard: int = SHARD) -> None:
        """Decide whether the next cycle sweeps."""
        at = "-infinity" if due else "infinity"
        await self.root.execute(f"UPDATE relay.shards SET sweep_at = '{at}' WHERE shard = $1", shard)

    async def rotate(self) -> int:
        """Rotate to the next partition, and return its number."""
        steps = []
        while (step := await store.rotate_outbox(self.relay, 0)) is not None:
            steps.append(step)
            if step == "rotated":
                break
        assert steps[-1:] == ["rotated"], steps
        return await self.filled()

    async def filled(self) -> int:
        """Return the number of the partition for the next event."""
        number: int = await self.root.fetchval("SELECT last_value >> 40 FROM orders.outbox_ids")
        return number

    async def partitions(self) -> list[int]:
        """Return the numbers of the existing partitions."""
        rows = await self.root.fetch(
            "SELECT substr(relname, 8)::bigint AS number FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
            "WHERE inhparent = 'orders.outbox'::regclass ORDER BY number"
        )
        return [row["number"] for row in rows]

    async def statuses(self) -> list[tuple[int, str]]:
        """Return the partition and status of each event, by id."""
        rows = await self.root.fetch("SELECT outbox_id >> 40 AS number, status FROM orders.outbox ORDER BY outbox_id")
        return [(row["number"], row["status"]) for row in rows]


@asynccontextmanager
async def connected(root: str, *, relay: str, order: str) -> AsyncIterator[Outbox]:
    """Open a connection to each of these addresses."""
    async with AsyncExitStack() as stack:
        connections: dict[str, asyncpg.Connection] = {}
        for name, url in {"root": root, "relay": relay, "order": order}.items():
            connections[name] = await asyncpg.connect(url)
            stack.push_async_callback(connections[name].close)
        yield Outbox(order, root, connections["root"], connections["relay"], connections["order"])


def ids(events: Sequence[OutboxEvent]) -> list[str]:
    """Return the ids of claimed events."""
    return [event.event_id for event in events]


def ids_of(*events: Event) -> list[str]:
    """Return the ids of written events."""
    return [str(event.event_id) for event in events]
