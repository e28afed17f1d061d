"""All batches of a participant lock rows in the same order, so that two batches never deadlock."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.balance import domain as balance
from services.balance.domain import Debit
from services.coupon import domain as coupon
from services.coupon.domain import CouponId, ReserveCoupon, UserId
from services.product.domain import Hold, HoldStock, OrderId, ProductId
from shared.ids import uuid7
from tests.infrastructure.databases import Database
from tests.infrastructure.locks import waits
from tests.infrastructure.services import SCHEMAS, migrate_service

PARTICIPANTS = ("product", "coupon", "balance")


def two_orders() -> tuple[UUID, UUID]:
    """Return the ids of two new orders, in order."""
    first, last = sorted([uuid7(), uuid7()])
    return first, last


@dataclass(frozen=True, slots=True)
class Place:
    """One participant's tables, and two sessions: `own` is the participant's, `other` another one's."""

    name: str
    own: asyncpg.Connection
    other: asyncpg.Connection

    @property
    def schema(self) -> str:
        return SCHEMAS[self.name]

    @property
    def store(self) -> Any:
        return import_module(f"services.{self.name}.store")

    @property
    def things(self) -> tuple[str, str]:
        """Return the table of the resources, and its key."""
        return {"product": ("products", "product_id"), "coupon": ("coupons", "coupon_id")}.get(
            self.name, ("accounts", "user_id")
        )

    @property
    def lock_thing(self) -> str:
        """Return the statement that locks one resource."""
        table, key = self.things
        return f"SELECT FROM {self.schema}.{table} WHERE {key} = $1 FOR UPDATE"

    async def make(self, *names: str) -> None:
        """Create a resource with each name, in this order."""
        for name in names:
            if self.name == "product":
                await self.store.create_product(self.other, name, "Thing", 1, 10)
            elif self.name == "coupon":
                insert = "INSERT INTO coupons.coupons (coupon_id, user_id, kind, value) VALUES ($1, 'ann', 'fixed', 1)"
                await self.other.execute(insert, name)
            else:
                insert = "INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES ($1, 9, 9, 1)"
                await self.other.execute(insert, name)

    def lock_things(self, names: Sequence[str]) -> Awaitable[Any]:
        """Lock the resources as a batch does."""
        if self.name == "product":
            return self.store.lock_stock(self.own, names)  # type: ignore[no-any-return]
        if self.name == "coupon":
            return self.store.lock_coupons(self.own, names, [])  # type: ignore[no-any-return]
        return self.store.lock_accounts(self.own, names)  # type: ignore[no-any-return]

    def take_things_at_once(self, names: Sequence[str]) -> Awaitable[Any]:
        """Use one unit of each resource, on the fast path."""
        if self.name == "product":
            lines = tuple((ProductId(name), 1) for name in names)
            return self.store.hold_in_one_statement(self.own, [HoldStock(OrderId(uuid7()), 0, lines)])  # type: ignore[no-any-return]
        if self.name == "coupon":
            uses = [ReserveCoupon(coupon.OrderId(uuid7()), CouponId(name), UserId("ann"), 1) for name in names]
            return self.store.use_in_one_statement(self.own, uses)  # type: ignore[no-any-return]
        debits = [Debit(balance.OrderId(uuid7()), 1, balance.UserId(name), 1) for name in names]
        return self.store.debit_in_one_statement(self.own, debits)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=PARTICIPANTS)
def migrated(request: pytest.FixtureRequest, database: Database) -> tuple[str, Database]:
    migrate_service(request.param, database)
    return request.param, database


@pytest.fixture
async def place(migrated: tuple[str, Database]) -> AsyncIterator[Place]:
    name, database = migrated
    own, other = await asyncpg.connect(database.url), await asyncpg.connect(database.url)
    # The rows are read in order of creation, unless the statement sorts them.
    await own.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
    try:
        yield Place(name, own, other)
    finally:
        await own.close()
        await other.close()


@asynccontextmanager
async def holding(place: Place, lock: str, *arguments: object) -> AsyncIterator[None]:
    """Hold a lock in the other session."""
    async with place.other.transaction():
        await place.other.execute(lock, *arguments)
        await place.other.execute("SET LOCAL lock_timeout = '500ms'")
        yield


async def test_gates_are_opened_in_order_of_id(place: Place) -> None:
    first, last = two_orders()
    insert = f"INSERT INTO {place.schema}.gates (order_id) VALUES ($1)"
    async with holding(place, insert, first):
        waiting = await waits(place.other, place.store.GATES.open_gates(place.own, [last, first]))
        await place.other.execute(insert, last)
    await waiting


async def test_gates_are_locked_in_order_of_id(place: Place) -> None:
    first, last = two_orders()
    for order in (last, first):
        await place.store.GATES.open_gates(place.other, [order])
    lock = f"SELECT FROM {place.schema}.gates WHERE order_id = $1 FOR UPDATE"
    async with holding(place, lock, first):
        waiting = await waits(place.other, place.store.GATES.lock_gates(place.own, [first, last]))
        await place.other.execute(lock, last)
    await waiting


async def test_things_are_locked_in_order_of_id(place: Place) -> None:
    await place.make("b", "a")
    async with holding(place, place.lock_thing, "a"):
        waiting = await waits(place.other, place.lock_things(["a", "b"]))
        await place.other.execute(place.lock_thing, "b")
    assert list(await waiting) == ["a", "b"]


async def test_things_are_locked_in_order_of_id_by_the_fast_path(place: Place) -> None:
    await place.make("d", "c")
    async with holding(place, place.lock_thing, "c"):
        waiting = await waits(place.other, place.take_things_at_once(["d", "c"]))
        await place.other.execute(place.lock_thing, "d")
    assert await waiting


@pytest.mark.parametrize("migrated", ["product"], indirect=True)
async def test_only_units_that_are_held_are_read_and_restored(place: Place) -> None:
    await place.make("held", "restored")
    order = uuid7()
    holds = [Hold(OrderId(order), ProductId(name), 1, 1) for name in ("held", "restored")]
    await place.store.write_holds(place.own, holds)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    restore = "UPDATE products.holds SET status = 'RESTORED', restored_at = $1 WHERE product_id = 'restored'"
    await place.other.execute(restore, long_ago)
    assert await place.store.read_holds(place.own, [order]) == {order: {"held": 1}}
    await place.store.write_restored(place.own, [order])
    timestamp = "SELECT restored_at FROM products.holds WHERE order_id = $1 AND product_id = 'restored'"
    assert await place.other.fetchval(timestamp, order) == long_ago


async def test_horizon_only_rises(place: Place) -> None:
    horizon = f"SELECT pruned_before FROM {place.schema}.horizon"
    await place.store.GATES.raise_horizon(place.own, 7)
    raised = await place.other.fetchval(horizon)
    await place.store.GATES.raise_horizon(place.own, 30)
    assert await place.other.fetchval(horizon) == raised
