"""Writers that commit to an outbox out of order, and checks that their events are published."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
from aiokafka.structs import ConsumerRecord

from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity
from tests.infrastructure.waiting import eventually

WRITERS = 4
TRANSACTIONS_PER_WRITER = 60
AFTERWARDS = 10  # of each writer: events that follow what the test did


@asynccontextmanager
async def writing(
    database: Database, seed: int, transactions: int | None = TRANSACTIONS_PER_WRITER
) -> AsyncIterator[list[Event]]:
    """Start writers that commit out of order and roll back every tenth transaction; yield what was committed.

    Each writes so many transactions. With None, each writes as long as the body runs, and AFTERWARDS more.
    """
    committed: list[Event] = []
    over = asyncio.Event()
    tasks = [
        asyncio.create_task(write_orders(database, random.Random(seed + i), committed, _counting(transactions, over)))
        for i in range(WRITERS)
    ]
    yield committed
    over.set()
    await asyncio.gather(*tasks)


def _counting(transactions: int | None, over: asyncio.Event) -> Iterator[int]:
    """Count the transactions of one writer."""
    if transactions is None:
        yield from itertools.takewhile(lambda _: not over.is_set(), itertools.count())
    yield from range(AFTERWARDS if transactions is None else transactions)


async def write_orders(
    database: Database, chance: random.Random, committed: list[Event], transactions: Iterator[int]
) -> None:
    """Write the transactions of one writer, each of three events of different orders."""
    connection = await asyncpg.connect(database.url)
    sequences: dict[int, int] = defaultdict(int)
    orders = [uuid7() for _ in range(6)]
    try:
        for _ in transactions:
            transaction = connection.transaction()
            await transaction.start()
            events = [Event(orders[index], sequences[index] + 1) for index in chance.sample(range(6), 3)]
            for event in events:
                await event.insert(connection)
                # Other writers take higher ids and commit before.
                await asyncio.sleep(chance.uniform(0, 0.02))
            await connection.execute("SELECT pg_notify('orders_outbox', '')")
            if chance.random() < 0.1:
                await transaction.rollback()
                continue
            await transaction.commit()
            committed += events
            for event in events:
                sequences[orders.index(event.order_id)] += 1
    finally:
        await connection.close()


async def progress(pipeline: Pipeline, count: int, seconds: float = 20) -> None:
    """Wait until that many more events are SENT, or all existing ones."""
    goal = (await pipeline.statuses()).get("SENT", 0) + count

    async def there() -> bool:
        statuses = await pipeline.statuses()
        return statuses.get("SENT", 0) >= goal or statuses.get("PENDING", 0) == 0

    await eventually(there, seconds, f"{goal} events SENT")


def assert_in_sequence(
    pipeline: Pipeline, records: list[ConsumerRecord], events: list[Event], *, once: bool = True
) -> None:
    """Check that every event is on the topic, and that each order's first occurrences count 1, 2, 3 …"""
    seen = [identity(record) for record in records]
    first = list(dict.fromkeys(seen))
    assert sorted(first) == sorted(expected(events))
    if once:
        assert first == seen, f"{len(seen) - len(first)} duplicates on {pipeline.topic}"
    by_order: dict[str, list[int]] = defaultdict(list)
    for order_id, sequence, _ in first:
        by_order[order_id].append(sequence)
    for sequences in by_order.values():
        assert sequences == list(range(1, len(sequences) + 1))
