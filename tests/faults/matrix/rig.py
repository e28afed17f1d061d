"""What the cells of the crash matrix share: databases, participants, and a replica that takes over unowned sagas."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.balance.api import _charge
from services.balance.domain import UserId
from services.coupon import store as coupon_store
from services.coupon.domain import Coupon, CouponId
from services.coupon.domain import UserId as CouponUser
from services.order import store
from services.order.admin import acts
from services.order.domain import Order, OrderId, SagaId
from services.order.saga import Participant
from services.order.settings import Settings
from services.product import store as product_store
from shared.postgres.connections import Pool, Session
from tests.faults.matrix.network import Network
from tests.faults.matrix.processes import LEASE_LEFT_SECONDS, CrashingProcess
from tests.infrastructure.databases import Database
from tests.infrastructure.in_process_participants import InProcessParticipant
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import eventually

PRICE, STOCK, DISCOUNT, BALANCE = 1000, 5, 100, 5000
SESSION_PAIRS = 3  # Postgres is fastest with few connections, and every cell has its own processes
END_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Customer:
    """The user, product and coupon of one cell; no other cell uses them."""

    user_id: str
    product_id: str
    coupon_id: str


class Rig:
    """The shared part: participants, sessions, and the replica that takes over the sagas of killed processes."""

    def __init__(
        self,
        database: Database,
        pool: Pool,
        sessions: list[Session],
        participants: dict[Participant, InProcessParticipant],
    ) -> None:
        self.database = database
        self.pool = pool
        self.network = Network(participants)
        self._processes: list[CrashingProcess] = []
        self._pairs = itertools.cycle(zip(sessions[::2], sessions[1::2], strict=True))
        self._numbers = itertools.count()
        # A cell's process gets its saga; the replica that takes over must not find it without an owner before that.
        self._handing_over = asyncio.Lock()

    async def process(self, *, payment_timeout_seconds: float = 900.0) -> CrashingProcess:
        """Start an order process."""
        made = CrashingProcess(
            self.pool, next(self._pairs), self.network, payment_timeout_seconds=payment_timeout_seconds
        )
        # Killed processes are kept too: they must not be cleaned up while the others run.
        self._processes.append(made)
        return await made.start()

    async def take_over(self, replica: CrashingProcess) -> None:
        """Sweep for ever, as a replica does."""
        while True:
            async with self._handing_over:
                await replica.parts.recovery._sweep_once()
            await asyncio.sleep(LEASE_LEFT_SECONDS)

    async def force(self, order_id: OrderId, process: CrashingProcess) -> None:
        """Force an order's saga as an operator, and let a process take it over."""
        async with self._handing_over:
            saga_id = await acts.force(self.pool, order_id, acts.Who("operator", "the matrix"))
            async with self.pool.connection() as db:
                await db.execute(
                    "UPDATE orders.sagas SET owner = $1 WHERE saga_id = $2", process.parts.process_id, saga_id
                )
        await process.parts.runner.resume(SagaId(saga_id))

    async def customer(self, *, coupon_of_another: bool = False, balance: int = BALANCE) -> Customer:
        """Put a product, a coupon and an account into the databases, for one cell."""
        number = next(self._numbers)
        made = Customer(f"user {number}", f"product {number}", f"coupon {number}")
        owner = "somebody else" if coupon_of_another else made.user_id
        coupon = Coupon(CouponId(made.coupon_id), CouponUser(owner), "fixed", DISCOUNT, None, 0, None)
        async with self.pool.transaction() as db:
            await product_store.create_product(db, made.product_id, "pen", PRICE, STOCK)
            await coupon_store.create_coupon(db, coupon)
            await _charge(db, UserId(made.user_id), balance, None)
        return made

    async def order(self, order_id: OrderId) -> Order:
        """Return an order as stored."""
        async with self.pool.connection() as db:
            found = await store.get_order(db, order_id)
        assert found is not None
        return found

    async def ended(self, order_id: OrderId, what: object) -> None:
        """Wait until the order has no live saga."""

        async def none_is_live() -> bool:
            async with self.pool.connection() as db:
                return not await store.read_live_sagas(db, [order_id])

        await eventually(none_is_live, END_SECONDS, f"the end of {what}")


@asynccontextmanager
async def built(database: Database) -> AsyncIterator[Rig]:
    """Build the shared part, and let its replica sweep."""
    for name in ("order", *Participant):
        await asyncio.to_thread(migrate_service, name, database)
    settings = Settings(database_url=database.url, pool_size=6)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(Pool(settings, "matrix"))
        sessions = [await enter(Session(settings, "matrix")) for _ in range(2 * SESSION_PAIRS)]
        participants = {
            place: await enter(InProcessParticipant(place, await enter(Session(settings, place.value))))
            for place in Participant
        }
        rig = Rig(database, pool, sessions, participants)
        sweep = asyncio.create_task(rig.take_over(await rig.process()))
        shared = asyncio.all_tasks() - {sweep}
        yield rig
        # The tasks of killed processes still wait.
        left = asyncio.all_tasks() - shared - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
