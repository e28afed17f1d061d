"""The order service's parts: replicas without HTTP, on real Postgres, with real participants."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.order import store
from services.order.checkout import Pending
from services.order.domain import OrderId
from services.order.engine.operations import KeyClaim, fingerprint
from services.order.process import Connections, OrderProcess
from services.order.saga import Participant
from services.order.settings import Settings
from services.order.store import Answer
from tests.infrastructure.books import violations
from tests.infrastructure.databases import Database
from tests.infrastructure.sagas import sagas_ended
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.waiting import eventually
from tests.integration.order.checkpoints import Checkpoints, WatchedBatcher, WatchedParticipants

PATIENCE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class OrderService:
    """The order service's database and participants; `replica` starts a replica, `customer` creates a customer."""

    database: Database
    db: asyncpg.Pool
    product: Client
    coupon: Client
    balance: Client
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def order_url(self) -> str:
        """Return the address of the order service's schema, with its role."""
        return self.database.as_role("order_service")

    async def customer(self, *, balance: int = 1000, stock: int = 5, price: int = 100) -> "Customer":
        """Create a user with money, a product and a coupon, all new."""
        mark = secrets.token_hex(6)
        user, product, coupon = f"user-{mark}", f"product-{mark}", f"coupon-{mark}"
        await self.product.post(
            "/v1/products", {"product_id": product, "name": "Thing", "price": price, "stock": stock}
        )
        await self.coupon.post("/v1/coupons", {"coupon_id": coupon, "user_id": user, "kind": "fixed", "value": 10})
        if balance:
            await self.balance.post(f"/v1/accounts/{user}/charges", {"amount": balance})
        return Customer(self, user, product, coupon)

    async def status(self, order_id: UUID) -> str:
        """Return the status of an order."""
        found: str = await self.db.fetchval("SELECT status FROM orders.orders WHERE order_id = $1", order_id)
        return found

    async def let_expire(self, *orders: UUID) -> None:
        """Set `expires_at` of unpaid orders to now."""
        query = "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE order_id = ANY ($1::uuid[])"
        await self.db.execute(query, orders)

    async def until_idle(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until no saga is live."""
        await sagas_ended(self.db, seconds)

    async def until_waiting_for_locks(self) -> None:
        """Wait until a session of this database waits for a lock."""

        async def waits() -> bool:
            query = """SELECT EXISTS (SELECT FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock')"""
            return bool(await self.db.fetchval(query))

        await eventually(waits, PATIENCE_SECONDS, "a session that waits for a lock")

    async def check(self) -> None:
        """Check all books against each other."""
        assert await violations(self.database.url) == []

    @asynccontextmanager
    async def replica(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        url: str | None = None,
        urls: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> AsyncIterator[OrderProcess]:
        """Start a replica; it ends without cleaning up, like a killed one. Its retries don't wait.

        `url`: another address of the database. `urls`: other addresses of some participants.
        """
        checkpoints = checkpoints or Checkpoints()
        ways: dict[str, Any] = {f"{who}_url": address for who, address in {**self.urls, **(urls or {})}.items()}
        often = {"lease_seconds": 30, "sweep_interval_seconds": 0.02, "expiry_interval_seconds": 0.02}
        chosen = Settings(**{"database_url": url or self.order_url, **ways, **often, **settings})
        async with Connections.open(chosen) as connections:
            assembled = OrderProcess(
                chosen,
                connections,
                participants_type=partial(WatchedParticipants, checkpoints),
                batcher_type=partial(WatchedBatcher, checkpoints),
                sleep=_hardly_sleep,
            )
            async with assembled as process:
                async with process.pool.connection() as db:
                    # The replica believes that it has a lease. The database has none, so others take its sagas now.
                    process.lease.renewed(asked_at=float("inf"))
                    process.clock.observe(await store.read_clock(db))
                yield process


@asynccontextmanager
async def sweeping(process: OrderProcess) -> AsyncIterator[None]:
    """Renew a process' lease, and run sagas without a runner, while the body runs."""
    await process.recovery.renew()
    loops = [asyncio.create_task(loop()) for loop in (process.recovery.keep_lease, process.recovery.sweep)]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _hardly_sleep(_seconds: float) -> None:
    await asyncio.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with their own product and coupon, who sends requests to a replica."""

    service: OrderService
    user: str
    product: str
    coupon: str

    def key(self, operation: str, value: str, about: Any = None) -> KeyClaim:
        """Return a key of this user."""
        return KeyClaim(self.user, operation, value, fingerprint(about))

    async def place(
        self, replica: OrderProcess, *, now: bool = True, quantity: int = 1, coupon: str | None = "own", **options: Any
    ) -> Answer | Pending:
        """Place an order of the product."""
        coupon_id = self.coupon if coupon == "own" else coupon
        key = options.pop("key", None)
        lines = [(self.product, quantity)]
        return await replica.checkout.place(self.user, lines, coupon_id, pay_now=now, key=key, **options)

    async def unpaid(self, replica: OrderProcess) -> OrderId:
        """Place an order that is paid later."""
        answer = await self.place(replica, now=False)
        assert isinstance(answer, Answer)
        assert answer.status == 201, answer
        return order_id_of(answer)

    async def paid(self, replica: OrderProcess) -> OrderId:
        """Place an order that is paid now."""
        answer = await self.place(replica)
        assert isinstance(answer, Answer)
        assert answer.status == 201, answer
        return order_id_of(answer)

    async def orders(self) -> Sequence[asyncpg.Record]:
        """Return the user's orders, oldest first."""
        found: Sequence[asyncpg.Record] = await self.service.db.fetch(
            "SELECT * FROM orders.orders WHERE user_id = $1 ORDER BY order_id", self.user
        )
        return found


def order_id_of(answer: Answer) -> OrderId:
    """Return the order of an answer."""
    return OrderId(UUID(orjson.loads(answer.body)["order_id"]))


def problem_of(answer: Any) -> str | None:
    """Return the problem of an answer; None for a success."""
    assert isinstance(answer, Answer), answer
    found = orjson.loads(answer.body)
    return str(found["type"]).removeprefix("/problems/") if answer.status >= 400 else None


@asynccontextmanager
async def open_order_service(database: Database) -> AsyncIterator[OrderService]:
    """Migrate everything and serve the participants."""
    for name in ("order", "product", "coupon", "balance"):
        await asyncio.to_thread(migrate_service, name, database)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(serving(name, database.as_role(f"{name}_service")))
            for name in ("product", "coupon", "balance")
        }
        db = await asyncpg.create_pool(database.url, min_size=0, max_size=4)
        stack.callback(db.terminate)  # closing would wait for connections that a failed test has not returned
        yield OrderService(database, db, **clients, urls={who: clients[who.value].url for who in Participant})


@asynccontextmanager
async def beside(work: Awaitable[Any]) -> AsyncIterator["asyncio.Task[Any]"]:
    """Run work concurrently with the body; at the end cancel it, and ignore its failure."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
