"""Plays all cells of a split view at once: A's sagas stand at their points, the standby is promoted, and both go on."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.balance.api import _charge
from services.balance.domain import UserId
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId
from services.coupon.domain import UserId as CouponUser
from services.order import store
from services.order.admin import acts
from services.order.domain import OrderId
from services.order.engine.operations import KeyClaim, Start, fingerprint, new_order
from services.order.engine.registry import Lane
from services.order.process import Connections, OrderProcess
from services.order.saga import Kind, Participant
from services.order.settings import Settings
from services.product import store as product_store
from shared.postgres.connections import Session
from tests.faults.matrix.cells import PLACES, Course
from tests.faults.matrix.processes import BACKOFF_FACTOR
from tests.faults.split.cells import Cell, Moment, Place
from tests.faults.split.network import Gate, Network
from tests.infrastructure.databases import Database
from tests.infrastructure.in_process_participants import PARTICIPANT_URLS, Channel, InProcessParticipant
from tests.infrastructure.two_primaries import TwoPrimaries
from tests.infrastructure.waiting import eventually

PRICE, STOCK, DISCOUNT, BALANCE = 1000, 5, 100, 5000
END_SECONDS = 60
LIVE = "SELECT saga_id, owner FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING')"
STATUSES = "SELECT order_id, status FROM orders.orders"


class SplitView:
    """Two order processes, and later two primaries."""

    def __init__(self, two: TwoPrimaries, stack: AsyncExitStack) -> None:
        self.two = two
        self._stack = stack
        self._tasks: list[asyncio.Task[Any]] = []
        self._number = 0

    async def open(self) -> None:
        """Start A on the primary that there is."""
        sessions = {place: await self._session(self.two.old_first, place) for place in Participant}
        self.network = Network(await self._participants(sessions), lambda place: self._at_former(sessions[place]))
        self._stack.push_async_callback(self.network.close)
        # Not the services' own: its statements have no time limit, so a busy machine fails none of them.
        self._pool = await self._stack.enter_async_context(asyncpg.create_pool(self.two.old_first.url, min_size=0))
        self.a = await self._process(self.two.old_first, self.network.from_a, self.network.sleep)

    async def stand(self, cells: Sequence[Cell]) -> dict[UUID, Cell]:
        """Bring A's saga of each cell to its point; return the cells by order."""
        starts = await asyncio.gather(*(self._start(cell) for cell in cells))
        gates = [Gate(cell) for cell in cells]
        self.network.gates |= {start.order_id: gate for start, gate in zip(starts, gates, strict=True)}
        await asyncio.gather(*(self._begin(start) for start in starts))
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*(gate.reached.wait() for gate in gates))
        return {start.order_id: cell for start, cell in zip(starts, cells, strict=True)}

    async def go_on(self, moment: Moment) -> None:
        """Let A continue the sagas of this moment, and return when it does."""
        self.network.opened[moment].set()
        gates = [gate for gate in self.network.gates.values() if gate.cell.moment is moment]
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*(gate.went_on.wait() for gate in gates))

    def begin_at_a(self, start: Start) -> asyncio.Task[Any]:
        """Begin an operation at A while nobody acknowledges: it waits."""
        self._tasks.append(asyncio.create_task(self._begin(start)))
        return self._tasks[-1]

    async def lose_acknowledgements(self) -> None:
        """Let the standby get commits that are never acknowledged: its answers are lost."""
        await asyncio.to_thread(self.two.stop_acknowledging)
        self.network.split = True

    async def promote(self) -> None:
        """Make the standby a primary, and serve with it."""
        await asyncio.to_thread(self.two.promote)
        sessions = {place: await self._session(self.two.new_first, place) for place in Participant}
        self.network.participants[Place.NEW] = await self._participants(sessions)
        self.b = await self._process(self.two.new_first, self.network.from_b, _sleep)

    async def take_over(self) -> None:
        """Let A's lease end by the new primary's clock, and B end everything that is live there."""
        async with self.b.pool.connection() as db:
            await store.renew_lease(db, self.a.process_id, 0)
        self._tasks.append(asyncio.create_task(self.b.recovery.sweep()))
        await eventually(self._none_is_live, END_SECONDS, "the end of all sagas on the new primary")

    async def force(self, orders: Sequence[UUID]) -> None:
        """Force the sagas of these orders on the new primary, as an operator."""
        for order_id in orders:
            await acts.force(self.b.pool, order_id, acts.Who("operator", "the split view"))

    async def cancel(self, orders: Sequence[UUID]) -> None:
        """Cancel these orders at B."""
        await asyncio.gather(*(self.b.checkout.cancel(OrderId(order_id), None) for order_id in orders))
        await eventually(self._none_is_live, END_SECONDS, "the end of all closings")

    async def rejoin(self, mode: str) -> None:
        """Stop the former primary in this mode: A connects to the new one, and lets its sagas go."""
        await asyncio.to_thread(self.two.stop_former, mode)
        self.network.split = False
        await self.a.recovery.renew()
        await eventually(self._a_is_idle, END_SECONDS, "A without a saga")

    async def one_more_order(self) -> UUID:
        """Place an order at A now; return its id."""
        start = await self.placement(None)
        await self._begin(start)
        await eventually(self._a_is_idle, END_SECONDS, "A's next order")
        return start.order_id

    async def end(self) -> None:
        """Cancel what still waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _none_is_live(self) -> bool:
        return not await read(self.two.new, LIVE)

    async def _a_is_idle(self) -> bool:
        return self.a.registry.count == 0

    async def _session(self, database: Database, place: Participant) -> Session:
        return await self._stack.enter_async_context(Session(_settings(database, place), place.value))

    async def _participants(
        self, sessions: Mapping[Participant, Session]
    ) -> Mapping[Participant, InProcessParticipant]:
        return {
            place: await self._stack.enter_async_context(InProcessParticipant(place, session))
            for place, session in sessions.items()
        }

    def _at_former(self, session: Session) -> bool:
        connection: Any = session._connection
        return connection is not None and connection._addr[1] == self.two.former_port

    async def _process(self, database: Database, carry: Any, sleep: Any) -> OrderProcess:
        settings = _settings(database)
        connections = await self._stack.enter_async_context(Connections.open(settings))
        made = OrderProcess(settings, connections, channel=lambda url: Channel(carry, url), sleep=sleep)
        await self._stack.enter_async_context(made)
        await made.recovery.renew()
        return made

    async def _begin(self, start: Start, process: OrderProcess | None = None) -> Any:
        checkout = (process or self.a).checkout
        return await checkout._begin(start, checkout.deadline(), Lane.COUPON)

    async def same_customer_at_b(self, start: Start) -> None:
        """Place an order at B with the key that a customer has sent to A as well."""
        assert start.order is not None
        lines = [(line.product_id, line.quantity) for line in start.order.lines]
        order = new_order(datetime.now(UTC), start.order.user_id, lines, start.order.coupon_id, pay_now=True)
        await self._begin(Start(Kind.PLACE_NOW, order.order_id, order, start.key), self.b)
        await eventually(self._none_is_live, END_SECONDS, "the end of the customer's order")

    async def _start(self, cell: Cell) -> Start:
        """Return the operation of a cell, on an order with the required status."""
        kind, course = cell.scenario.kind, cell.scenario.course
        pay_now = kind is Kind.PLACE_NOW or course is Course.PAID
        refused = course is Course.REFUSED
        place = await self.placement(
            None,
            pay_now=pay_now,
            balance=1 if refused and pay_now else BALANCE,
            coupon_of_another=refused and not pay_now,
        )
        if kind in PLACES:
            return place
        await self._begin(place)
        async with asyncio.timeout(END_SECONDS):
            await self.a.registry.wait(place.saga_id, END_SECONDS)
        if course is Course.EXPIRED:
            async with self._pool.acquire() as db:
                await db.execute("UPDATE orders.orders SET expires_at = now() WHERE order_id = $1", place.order_id)
        return Start(kind, place.order_id, expiring=course is Course.EXPIRED)

    async def placement(
        self, key: str | None, *, pay_now: bool = True, balance: int = BALANCE, coupon_of_another: bool = False
    ) -> Start:
        """Put a product, a coupon and an account into the databases; return an order of them."""
        self._number += 1
        user, product, coupon = (f"{word} {self._number}" for word in ("user", "product", "coupon"))
        owner = "somebody else" if coupon_of_another else user
        async with self._pool.acquire() as db, db.transaction():
            await product_store.create_product(db, product, "pen", PRICE, STOCK)
            await coupon_store.create_coupon(
                db, Coupon(CouponId(coupon), CouponUser(owner), "fixed", DISCOUNT, None, 0, None)
            )
            await _charge(db, UserId(user), balance, None)
        order = new_order(datetime.now(UTC), user, [(product, 1)], coupon, pay_now=pay_now)
        claim = None if key is None else KeyClaim(user, "place", key, fingerprint(key))
        return Start(Kind.PLACE_NOW if pay_now else Kind.PLACE_LATER, order.order_id, order, claim)


def _settings(database: Database, service: str = "order") -> Settings:
    return Settings(
        database_url=database.as_role(f"{service}_service"),
        sagas_max=1000,
        lease_seconds=600,
        sweep_interval_seconds=0.1,
        request_deadline_seconds=END_SECONDS,
        **PARTICIPANT_URLS,
    )


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds * BACKOFF_FACTOR)


async def read(database: Database, query: str) -> dict[Any, Any]:
    """Return the rows of a query with two columns, as its superuser."""
    connection = await asyncpg.connect(database.url)
    try:
        return {row[0]: row[1] for row in await connection.fetch(query)}
    finally:
        await connection.close()


@asynccontextmanager
async def split_view(two: TwoPrimaries) -> AsyncIterator[SplitView]:
    """Run process A, and end both processes after the body."""
    async with AsyncExitStack() as stack:
        view = SplitView(two, stack)
        await view.open()
        try:
            yield view
        finally:
            await view.end()
