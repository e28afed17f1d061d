"""Compares the participants' databases in memory with the real ones on random commands."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from services.balance import batch as balance_batch
from services.balance import store as balance_store
from services.balance.api import _charge
from services.balance.domain import Debit, Refund, UserId
from services.coupon import batch as coupon_batch
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId, RedeemCoupon, ReleaseCoupon, ReserveCoupon
from services.coupon.domain import UserId as CouponUser
from services.order.settings import Settings
from services.product import batch as product_batch
from services.product import store as product_store
from services.product.domain import HoldStock, ProductId, RestoreStock
from shared.participant.protocol import alone
from shared.postgres.connections import Pool, Session
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, migrate_service
from tests.simulation.comparison import Side, Work, compare, in_memory, now
from tests.simulation.memory.participants import BalancesDatabase, CouponsDatabase, ProductsDatabase

BATCHES = 300
PRUNES_EVERY = 50
DATABASES = {"product": ProductsDatabase, "coupon": CouponsDatabase, "balance": BalancesDatabase}
BATCH: dict[str, Any] = {"product": product_batch, "coupon": coupon_batch, "balance": balance_batch}

PRUNE: dict[str, Callable[..., Any]] = {
    "product": product_store.GATES.prune_gates,
    "coupon": coupon_store.GATES.prune_gates,
    "balance": balance_store.GATES.prune_gates,
}


@pytest_asyncio.fixture(params=list(DATABASES))
async def participant(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[tuple[str, Side, Side]]:
    """Yield the name of a participant, its real database and the one in memory."""
    settings = Settings(database_url=migrate_service(request.param, database))
    async with Pool(settings, "comparison") as pool, Session(settings, "comparison") as session:
        yield request.param, Side(pool, session), in_memory(DATABASES[request.param](now))


async def test_random_commands_match_the_real_database(participant: tuple[str, Side, Side]) -> None:
    name, real, memory = participant
    rng = random.Random(name)

    async def create_rows(side: Side) -> None:
        async with side.pool.transaction() as db:
            if name == "product":
                await product_store.create_product(db, "pen", "pen", 300, 60)
                await product_store.create_product(db, "ink", "ink", 50, 30)
            elif name == "coupon":
                for coupon_id in ("one", "two", "three"):
                    coupon = Coupon(CouponId(coupon_id), CouponUser("ann"), "fixed", 100, None, 0, None)
                    await coupon_store.create_coupon(db, coupon)
            else:
                await _charge(db, UserId("ann"), 9000, None)

    await compare(create_rows, real, memory)
    for number in range(BATCHES):
        if number % PRUNES_EVERY == PRUNES_EVERY - 1:
            await compare(_pruning(name, UUID(int=_order(number // 2).int + 1), memory), real, memory)
        commands = [_command(name, rng) for _ in range(rng.randint(1, 5))]

        async def run(side: Side, commands: Sequence[Any] = commands) -> object:
            async with side.session.statement() as db:
                applied = await BATCH[name].fast_path(db, alone(commands))
            async with side.session.transaction() as db:
                rest = [command for command in commands if command.gate not in applied]
                return applied, await BATCH[name].execute(db, rest) if rest else []

        await compare(run, real, memory)


def _order(number: int) -> UUID:
    """Return an order's id, one order per millisecond. They are new: the fast path does not apply old ones."""
    return UUID(int=0xFF << 120 | number << 80 | 7 << 76 | 2 << 62)


def _pruning(name: str, up_to: UUID, memory: Side) -> Work:
    async def work(side: Side) -> object:
        if side is memory:
            side.pool._database.raise_horizon_to(up_to)  # type: ignore[attr-defined]
        else:
            table = f"{SCHEMAS[name]}.horizon"
            async with side.pool.connection() as db:
                await db.execute(f"UPDATE {table} SET pruned_before = $1 WHERE pruned_before < $1", up_to)
        async with side.pool.transaction() as db:
            return await PRUNE[name](db, UUID(int=0), 10)

    return work


def _command(name: str, rng: random.Random) -> Any:
    order_id: Any = _order(rng.randint(1, 300))
    undo = rng.random() < 0.3
    if name == "product":
        lines = tuple((ProductId(product), rng.randint(1, 2)) for product in rng.sample(("pen", "ink", "nib"), 2))
        return RestoreStock(order_id) if undo else HoldStock(order_id, 0, lines[: rng.randint(1, 2)])
    if name == "balance":
        user_id = UserId(rng.choice(("ann", "ann", "bob")))
        return Refund(order_id) if undo else Debit(order_id, rng.randint(1, 2), user_id, rng.choice((0, 100, 400)))
    use = (order_id, CouponId(rng.choice(("one", "two", "three", "four"))), CouponUser("ann"), 500, 0)
    if undo:
        return ReleaseCoupon(order_id)
    return ReserveCoupon(*use) if rng.random() < 0.5 else RedeemCoupon(*use, rng.random() < 0.5)
