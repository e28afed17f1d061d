"""Compares the order service's database in memory with the real one on random work."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from services.order import store
from services.order.admin import acts
from services.order.domain import OrderId, OrderStatus, SagaId, price
from services.order.engine.operations import KeyClaim, Start, new_order
from services.order.engine.starts import Starts
from services.order.engine.transitions import TransitionRequest, Transitions
from services.order.retention import FIRST_TIMESTAMP, prune_keys
from services.order.saga import EVENTS, Kind, Saga, Status, Transition
from services.order.settings import Settings
from shared.ids import uuid7
from shared.postgres.clocks import DatabaseClock
from shared.postgres.connections import Connection, Pool, Session
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service
from tests.simulation.comparison import Side, Work, comparable, compare, in_memory, now
from tests.simulation.memory.orders import OrdersDatabase

STEPS = 500
PROCESSES = tuple(UUID(int=number) for number in (1, 2))
HOUR = 3600.0
TABLES = {
    "orders": ("order_id",),
    "sagas": ("saga_id",),
    "idempotency_keys": ("user_id", "operation", "key"),
    "outbox": ("order_id", "sequence"),
    "processes": ("process_id",),
}


@pytest_asyncio.fixture
async def real(database: Database) -> AsyncIterator[Side]:
    """Yield the real database, empty."""
    settings = Settings(database_url=migrate_service("order", database))
    superuser = await asyncpg.connect(database.url)
    await superuser.execute(f"TRUNCATE {', '.join('orders.' + name for name in TABLES)}")
    await superuser.close()
    async with Pool(settings, "comparison") as pool, Session(settings, "comparison") as session:
        yield Side(pool, session)


@pytest.mark.parametrize("seed", range(6))
async def test_random_orders_and_sagas_match_the_real_database(seed: int, real: Side) -> None:
    database = OrdersDatabase(now)
    memory, work = in_memory(database), RandomWork(seed)
    for _ in range(STEPS):
        await compare(work.pick(), real, memory)
    for name, key in TABLES.items():
        async with real.pool.connection() as db:
            rows = await db.fetch(f"SELECT * FROM orders.{name} ORDER BY {', '.join(key)}")
        table = database.keys if name == "idempotency_keys" else getattr(database, name)
        stored = [comparable(table.rows[place]) for place in sorted(table.rows)]
        # The real tables have more columns, which the simulation does not use.
        assert [
            {column: comparable(row[column]) for column in mine} for row, mine in zip(rows, stored, strict=True)
        ] == stored
    assert work.moved > STEPS / 20, "too few transitions were committed"


class RandomWork:
    """Random work on orders and sagas, most of which the guards refuse."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.orders: list[OrderId] = []
        self.sagas: list[SagaId] = []
        self.moved = 0

    def pick(self) -> Work:
        """Return random work."""
        choices = (
            self.start,
            self.start,
            self.transit,
            self.transit,
            self.transit,
            self.own,
            self.force,
            self.schedule,
        )
        return self.rng.choice(choices)()

    def start(self) -> Work:
        starts = [self._a_start() for _ in range(self.rng.randint(1, 4))]
        process_id, timeout = self.rng.choice(PROCESSES), self.rng.choice((0.0, HOUR))
        self.orders += [start.order_id for start in starts if start.order is not None]
        self.sagas += [start.saga_id for start in starts]
        return lambda side: Starts(side.session, DatabaseClock(), process_id, "KRW", timeout).commit(starts)

    def _a_start(self) -> Start:
        kind = self.rng.choice(list(Kind))
        key = KeyClaim("ann", kind, str(self.rng.randint(1, 30)), bytes([self.rng.randint(1, 2)]))
        key_or_none = self.rng.choice((key, None))
        if kind in (Kind.PLACE_NOW, Kind.PLACE_LATER):
            order = new_order(
                datetime.now(UTC),
                "ann",
                [("pen", 1)],
                self.rng.choice(("coupon", None)),
                pay_now=kind is Kind.PLACE_NOW,
            )
            return Start(kind, order.order_id, order, key_or_none)
        order_id = self.rng.choice(self.orders) if self.orders else OrderId(uuid7())
        return Start(kind, order_id, None, key_or_none, expiring=kind is Kind.CLOSE and self.rng.random() < 0.5)

    def transit(self) -> Work:
        process_id = self.rng.choice(PROCESSES)
        wanted = {self.rng.choice(self.sagas): self._a_transition() for _ in range(3) if self.sagas}
        mismatched = self.rng.random() < 0.15

        async def commit(side: Side) -> object:
            changes: dict[UUID, TransitionRequest] = {}
            async with side.pool.connection() as db:
                for saga_id, (move, priced) in wanted.items():
                    found = await store.get_saga(db, saga_id)
                    if found is not None and found[0].order.order_id not in changes:
                        changes[found[0].order.order_id] = _change(found[0], move, priced=priced, mismatched=mismatched)
            if not changes:
                return None
            changed = await Transitions(side.session, DatabaseClock(), process_id).commit(list(changes.values()))
            self.moved += sum(one is not None for one in changed)
            return changed

        return commit

    def _a_transition(self) -> tuple[Transition, bool]:
        end = self.rng.choice([status for status in OrderStatus if status is not OrderStatus.PLACING])
        saga_to = self.rng.choice((Status.DONE, Status.DONE, Status.COMPENSATED, Status.COMPENSATING))
        target = self.rng.choice((OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.EXPIRED))
        move = Transition(
            self.rng.choice((Status.RUNNING, Status.COMPENSATING)),
            saga_to,
            self.rng.choice((OrderStatus.PLACING, OrderStatus.PAYING)),
            end,
            target=None if saga_to is Status.DONE else target,
            event=EVENTS.get(end),
            problem={"type": "/problems/x", "status": 400} if end is OrderStatus.REJECTED else None,
        )
        return move, self.rng.random() < 0.8

    def own(self) -> Work:
        process_id = self.rng.choice(PROCESSES)
        seconds = self.rng.choice((-HOUR, HOUR, -2 * HOUR))
        versions = self.rng.choice(((1,), (2,), (1, 2)))
        saga_id = self.rng.choice(self.sagas) if self.sagas else SagaId(uuid7())

        async def renew(db: Connection) -> None:
            await store.renew_lease(db, process_id, seconds)  # not returned: the two databases have different times

        calls: list[Callable[[Connection], Awaitable[object]]] = [
            renew,
            lambda db: store.give_lease_up(db, process_id),
            lambda db: store.take_over(db, process_id, versions, 1000),
            lambda db: store.list_own(db, process_id, versions),
            lambda db: store.count_unknown_versions(db, versions),
            store.forget_dead_processes,
            lambda db: store.mark_stuck(db, saga_id, process_id),
            store.count_stuck,
        ]
        call = self.rng.choice(calls)

        async def work(side: Side) -> object:
            async with side.pool.connection() as db:
                found = await call(db)
            return sorted(found) if isinstance(found, list) else found

        return work

    def force(self) -> Work:
        saga_id, who = self.rng.choice(self.sagas) if self.sagas else SagaId(uuid7()), acts.Who("ann", "so")
        if self.rng.random() < 0.3:
            return lambda side: acts.retry(side.pool, [saga_id], who)
        return lambda side: acts.force(side.pool, saga_id, who)

    def schedule(self) -> Work:
        async def work(side: Side) -> object:
            async with side.pool.connection() as db:
                expired = [sorted(await store.list_expired(db, 1000, coupon=coupon)) for coupon in (False, True)]
                return [*expired, len(await prune_keys(db, FIRST_TIMESTAMP, 10, hours=1))]

        return work


def _change(saga: Saga, move: Transition, *, priced: bool, mismatched: bool) -> TransitionRequest:
    """Return the request of a transition from the current statuses, or from random ones if it is `mismatched`."""
    if not mismatched:
        move = replace(move, saga_from=saga.status, order_from=saga.order.status)
    order = saga.order
    if priced:
        held = [{"product_id": "pen", "name": "pen", "unit_price": 300}]
        order = price(order, held)
    return TransitionRequest(replace(saga, order=order), move, [])
