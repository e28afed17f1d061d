"""Recovers sagas without a runner: each process sweeps for them, and holds a lease by the database's clock.

Only liveness depends on the lease. If a process resumes after its lease has expired, it does no harm: its commits are
guarded.
"""

import asyncio
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from services.order import store
from services.order.engine.admission import Admission, Lease
from services.order.engine.runner import Runner
from services.order.saga import VERSIONS_KNOWN
from shared.postgres.clocks import HostClock
from shared.postgres.connections import Pool
from shared.postgres.errors import explain
from shared.process.tasks import LoopSupervisor
from shared.refusals import Unavailable

log = structlog.get_logger()

TAKEN_OVER = Counter("sagas_taken_over_total", "Sagas taken over from processes without a lease")
STUCK = Gauge("sagas_stuck", "Live sagas whose undo keeps failing")
UNKNOWN_VERSION = Gauge("sagas_unknown_version", "Live sagas of a version that this build does not know")
# The most sagas that one sweep takes: enough for a quick recovery, and few enough to leave some to other replicas.
TAKE_OVER_MAX = 200
# The pause after a failed renewal. It is short, because this process begins nothing without a lease.
RENEW_AGAIN_SECONDS = 0.5


class Recovery:
    """Renews this process' lease, and sweeps for sagas without an owner or without a runner.

    `lease_pool` serves only the lease: a burst of reads that uses all connections of `pool` must not let the lease
    expire. Otherwise other processes would take the sagas, and the waiting clients would read even more.
    """

    def __init__(
        self,
        process_id: UUID,
        pool: Pool,
        runner: Runner,
        admission: Admission,
        *,
        host_clock: HostClock,
        lease: Lease,
        lease_pool: Pool,
        sweep_seconds: float,
    ) -> None:
        self._process_id = process_id
        self._pool = pool
        self._host_clock = host_clock
        self._lease_pool = lease_pool
        self._runner = runner
        self._admission = admission
        self._sweep_seconds = sweep_seconds
        self._lease = lease
        self._renewals = LoopSupervisor("lease", "lease.renewal_failed")

    async def renew(self) -> None:
        """Renew the lease if the database answers, compare this host's clock with its clock, and read closed slots.

        Call it once before serving: without a lease, other processes would take a new saga immediately.
        """
        asked_at = asyncio.get_running_loop().time()
        with self._renewals:
            async with self._lease_pool.connection() as db:
                renewal = store.renew_lease(db, self._process_id, self._lease.seconds)
                await self._host_clock.compare(renewal)
                self._lease.renewed(asked_at)
                self._admission.close(await store.list_closed_slots(db))

    async def keep_lease(self) -> None:
        """Renew the lease three times per lease, for ever, and sooner after a failure."""
        usual = self._lease.seconds / 3
        while True:
            await asyncio.sleep(min(usual, RENEW_AGAIN_SECONDS) if self._renewals.failures else usual)
            await self.renew()

    async def check_lease(self) -> None:
        """Raise Unavailable unless the lease holds."""
        self._lease.check()

    async def sweep(self) -> None:
        """Find and run sagas without a runner, for ever."""
        supervisor = LoopSupervisor("sweep", "sweep.failed")
        while True:
            with supervisor:
                self._lease.check()  # without a lease, other processes would take the same sagas immediately
                await self._sweep_once()
            await asyncio.sleep(supervisor.pause(self._sweep_seconds))

    async def give_up(self) -> None:
        """Release the lease, so that other replicas continue the remaining sagas immediately."""
        self._lease.given_up()
        try:
            async with self._lease_pool.connection() as db:
                await store.give_lease_up(db, self._process_id)
        except Unavailable as error:
            log.warning("lease.release_failed", error=explain(error))

    async def _sweep_once(self) -> None:
        limit = min(TAKE_OVER_MAX, self._admission.available)
        async with self._pool.connection() as db:
            taken = await store.take_over(db, self._process_id, VERSIONS_KNOWN, limit)
            own = await store.list_own(db, self._process_id, VERSIONS_KNOWN)
            STUCK.set(await store.count_stuck(db))
            unknown = await store.count_unknown_versions(db, VERSIONS_KNOWN)
            await store.forget_dead_processes(db)
        UNKNOWN_VERSION.set(unknown)
        if unknown:
            log.error("saga.version_unknown", count=unknown, known=list(VERSIONS_KNOWN))
        if taken:
            TAKEN_OVER.inc(len(taken))
            log.warning("saga.taken_over", count=len(taken))
        for saga_id in own:
            await self._runner.resume(saga_id)
