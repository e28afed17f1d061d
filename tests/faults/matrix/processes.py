"""Order processes for the crash matrix: the real ones, over real sessions, with a network and commits that can fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.order import store
from services.order.checkout import Checkout
from services.order.engine.admission import Admission, Lease
from services.order.engine.operations import Start, Started
from services.order.engine.participants import Participants
from services.order.engine.recovery import Ownership
from services.order.engine.runner import Runner
from services.order.engine.starts import Starts
from services.order.engine.transitions import Change, Changed, Transitions
from services.order.saga import Participant
from shared.batcher import Batcher
from shared.host_clock import HostClock
from shared.ids import uuid7
from shared.postgres import Connection, DatabaseClock, Pool, Session
from shared.refusals import Unavailable
from tests.faults.matrix.cells import Fault
from tests.faults.matrix.network import Network, NetworkChannel, Trap, fail

SAGAS_MAX = 1000
LEASE_SECONDS = 600.0
# What is left of the lease of a process that is killed.
LEASE_LEFT_SECONDS = 0.1
# Retries come as often as without a fault they never would, so that a cell takes milliseconds.
BACKOFF_FACTOR = 0.02


class OrderProcess:
    """One process of the order service. What is killed stays where it is: its tasks wait for what never comes."""

    def __init__(
        self,
        pool: Pool,
        sessions: tuple[Session, Session],
        network: Network,
        *,
        payment_timeout_seconds: float = 900.0,
    ) -> None:
        self.process_id = uuid7()
        self._pool = pool
        self._session = sessions[1]
        self._network = network
        clock = DatabaseClock()
        starts = Starts(sessions[0], clock, self.process_id, "KRW", payment_timeout_seconds)
        self._starts = Batcher[Start, Started]("starts", starts.commit, batch_max=256, queue_max=SAGAS_MAX)
        self._transitions = Batcher[Change, Changed | None](
            "transitions", self._commit, batch_max=256, queue_max=SAGAS_MAX
        )
        self._participants = Participants(
            {place: place.value for place in Participant}, lambda place: NetworkChannel(network, place)
        )
        self.runner = Runner(
            self.process_id,
            pool,
            self._participants,
            self._transitions,
            sleep=lambda seconds: asyncio.sleep(seconds * BACKOFF_FACTOR),
        )
        lease = Lease(LEASE_SECONDS)
        admission = Admission(self.runner.running, SAGAS_MAX, (lease.check,))
        self.checkout = Checkout(pool, clock, self._starts, self.runner, admission, deadline_seconds=30)
        self.ownership = Ownership(
            self.process_id,
            pool,
            self.runner,
            admission,
            host_clock=HostClock(clock),
            lease=lease,
            lease_pool=pool,
            sweep_seconds=LEASE_LEFT_SECONDS,
        )

    async def start(self) -> "OrderProcess":
        """Begin to serve."""
        await self._starts.__aenter__()
        await self._transitions.__aenter__()
        await self._participants.__aenter__()
        await self.ownership.renew()
        return self

    async def kill(self) -> None:
        """Let what is left of the lease run out. What it was doing it never ends."""
        async with self._pool.connection() as db:
            await store.renew_lease(db, self.process_id, LEASE_LEFT_SECONDS)

    async def _commit(self, changes: Sequence[Change]) -> Sequence[Changed | BaseException | None]:
        traps = [self._network.traps.get(change.saga.order.order_id) for change in changes]
        trap = next((trap for trap in traps if trap is not None and trap.commit), None)
        if trap is None:
            return await Transitions(self._session, DatabaseClock(), self.process_id).commit(changes)
        trap.commit = False
        trap.struck.set_result(None)
        return await self._struck_commit(trap, changes)

    async def _struck_commit(self, trap: Trap, changes: Sequence[Change]) -> Sequence[Changed | BaseException | None]:
        """A timeout comes after the commit, an error before it, and a reset in the middle."""
        if trap.cell.fault is Fault.TIMEOUT:
            await Transitions(self._session, DatabaseClock(), self.process_id).commit(changes)
        elif trap.cell.fault is Fault.RESET:
            return await Transitions(_Cut(self._session), DatabaseClock(), self.process_id).commit(changes)
        elif trap.cell.fault is Fault.KILLED:
            await fail(trap.cell.fault)
        raise Unavailable(trap.cell.fault)


class _Cut(Session):
    """A session whose connection is cut before its transaction is committed."""

    def __init__(self, session: Session) -> None:
        self._whole = session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection, and cut it before its transaction is committed."""
        async with self.statement() as connection:
            yield connection

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statement is not yet committed when it is cut."""
        async with self._whole.transaction() as connection:
            yield connection
            raise ConnectionResetError
