"""Order processes for the crash matrix: the real assembly and sessions, with a network and commits that can fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from services.order import store
from services.order.engine.transitions import TransitionRequest, TransitionResult, Transitions
from services.order.process import Connections, OrderProcess
from services.order.settings import Settings
from shared.batcher import Batcher, Work
from shared.postgres.connections import Connection, Pool, Session
from shared.refusals import Unavailable
from tests.faults.matrix.cells import Fault
from tests.faults.matrix.network import Network, Trap, fail
from tests.infrastructure.in_process_participants import PARTICIPANT_URLS, Channel

SAGAS_MAX = 1000
LEASE_SECONDS = 600.0
# The rest of a killed process' lease.
LEASE_LEFT_SECONDS = 0.1
# Retries are much more frequent than in production, so that a cell takes milliseconds.
BACKOFF_FACTOR = 0.02


class CrashingProcess:
    """One order process whose commits can fail. A killed one stays: its tasks wait for ever."""

    def __init__(
        self,
        pool: Pool,
        sessions: tuple[Session, Session],
        network: Network,
        *,
        payment_timeout_seconds: float = 900.0,
    ) -> None:
        self._network = network
        settings = Settings(
            database_url="postgresql://the.pool.has.it/",
            sagas_max=SAGAS_MAX,
            lease_seconds=LEASE_SECONDS,
            sweep_interval_seconds=LEASE_LEFT_SECONDS,
            request_deadline_seconds=30,
            payment_timeout_seconds=payment_timeout_seconds,
            **PARTICIPANT_URLS,
        )
        self.parts = OrderProcess(
            settings,
            Connections(pool, pool, *sessions),
            channel=lambda url: Channel(network.carry, url),
            batcher_type=self._batcher,
            sleep=lambda seconds: asyncio.sleep(seconds * BACKOFF_FACTOR),
        )
        self._cut = Transitions(_CutSession(sessions[1]), self.parts.clock, self.parts.process_id)

    async def start(self) -> "CrashingProcess":
        """Begin to serve."""
        await self.parts.__aenter__()
        await self.parts.recovery.renew()
        return self

    async def kill(self) -> None:
        """Let the rest of the lease expire. The process never continues its work."""
        async with self.parts.pool.connection() as db:
            await store.renew_lease(db, self.parts.process_id, LEASE_LEFT_SECONDS)

    def _batcher(self, name: str, work: Work[Any, Any], **options: Any) -> Batcher[Any, Any]:
        return Batcher(name, self._trapped(work) if name == "transitions" else work, **options)

    def _trapped(
        self, commit: Work[TransitionRequest, TransitionResult | None]
    ) -> Work[TransitionRequest, TransitionResult | None]:
        async def run(changes: Sequence[TransitionRequest]) -> Sequence[TransitionResult | BaseException | None]:
            traps = [self._network.traps.get(change.saga.order.order_id) for change in changes]
            trap = next((trap for trap in traps if trap is not None and trap.commit), None)
            if trap is None:
                return await commit(changes)
            trap.commit = False
            trap.struck.set_result(None)
            return await self._strike(trap, commit, changes)

        return run

    async def _strike(
        self, trap: Trap, commit: Work[TransitionRequest, TransitionResult | None], changes: Sequence[TransitionRequest]
    ) -> Sequence[TransitionResult | BaseException | None]:
        """Fail the commit: a timeout comes after it, an error before it, and a reset during it."""
        if trap.cell.fault is Fault.TIMEOUT:
            await commit(changes)
        elif trap.cell.fault is Fault.RESET:
            return await self._cut.commit(changes)
        elif trap.cell.fault is Fault.KILLED:
            await fail(trap.cell.fault)
        raise Unavailable(trap.cell.fault)


class _CutSession(Session):
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
