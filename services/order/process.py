"""The order process, put together in one place: production, tests and the simulator use the same assembly."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from services.order.checkout import Checkout
from services.order.engine.admission import Admission, Lease, check_slot_time
from services.order.engine.operations import Start, Started
from services.order.engine.participants import Channel, HttpChannel, Participants
from services.order.engine.quota import Quota
from services.order.engine.recovery import Recovery
from services.order.engine.registry import SagaRegistry
from services.order.engine.runner import Runner
from services.order.engine.sharding import participants_of
from services.order.engine.starts import Starts
from services.order.engine.transitions import TransitionRequest, TransitionResult, Transitions
from services.order.expiry import Expiry
from services.order.settings import Settings
from shared.batcher import Batcher, Work, one_by_one_when
from shared.ids import uuid7
from shared.pacing import BatchScheduler
from shared.postgres.clocks import DatabaseClock, HostClock
from shared.postgres.connections import Pool, Session
from shared.postgres.errors import is_about_the_batch

COMMIT_BATCH_MAX = 256  # past this the latency of a batch grows faster than throughput


@dataclass(frozen=True, slots=True)
class Connections:
    """The database connections of one process. Starts, transitions and the lease each have their own connection."""

    pool: Pool
    lease_pool: Pool
    starts: Session
    transitions: Session

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["Connections"]:
        """Open all connections; close them after the body."""
        async with (
            Pool(settings, "order") as pool,
            Session(settings, "order starts") as starts,
            Session(settings, "order transitions") as transitions,
            Pool(settings, "order lease", size=1) as lease_pool,
        ):
            yield cls(pool, lease_pool, starts, transitions)


class OrderProcess:
    """One process of the order service, without its HTTP server and its loops.

    Entering it starts the batchers. Leaving it stops the sagas that still run, and then the batchers.
    """

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        *,
        channel: Callable[[str], Channel] | None = None,
        participants_type: Callable[..., Participants] | None = None,
        batcher_type: Callable[..., Batcher[Any, Any]] = Batcher,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Assemble a process. Tests replace the arguments after `connections`.

        `channel` makes the transport to a participant's URL, by default over HTTP. `batcher_type` is the type of both
        batchers of commits. `sleep` waits before a retry, in seconds. `elapsed` is the clock, in seconds, that measures
        how long ago the database's time was read.
        """
        self.process_id, self.pool = uuid7(), connections.pool
        self.clock = DatabaseClock(elapsed)
        self.host_clock = HostClock(self.clock)
        self.starts = Starts(
            connections.starts, self.clock, self.process_id, settings.currency, settings.payment_timeout_seconds
        )
        self.transitions = Transitions(connections.transitions, self.clock, self.process_id)
        shards = settings.product_shards
        # The batchers in the order in which a checkout passes them. With as many slots nothing has to wait, so no
        # scheduler is needed.
        steps = ("starts", *shards.all_places, "transitions")
        limited = settings.batches_at_once < len(steps)
        scheduler = BatchScheduler(settings.batches_at_once, steps) if limited else None

        def batcher(name: str, commit: Work[Any, Any]) -> Batcher[Any, Any]:
            work = one_by_one_when(is_about_the_batch, commit)
            queue_max = settings.sagas_max * 2
            return batcher_type(name, work, batch_max=COMMIT_BATCH_MAX, queue_max=queue_max, scheduler=scheduler)

        self.start_batcher: Batcher[Start, Started] = batcher("starts", self.starts.commit)
        self.transition_batcher: Batcher[TransitionRequest, TransitionResult | None] = batcher(
            "transitions", self.transitions.commit
        )
        self.participants = (participants_type or participants_of(shards))(
            settings.participant_urls,
            channel or partial(HttpChannel, tls=settings.participants_tls),
            credentials=settings.credentials,
            scheduler=scheduler,
        )
        self.registry = SagaRegistry(shards)
        self.runner = Runner(
            self.process_id, self.pool, self.participants, self.transition_batcher, self.registry, sleep=sleep
        )
        self.lease = Lease(settings.lease_seconds)
        fitness = [self.lease.check, self.host_clock.check]
        if not settings.ownership.is_everything:
            fitness.append(partial(check_slot_time, settings.ownership, self.clock))
        self.admission = Admission(self.registry, settings.sagas_max, fitness)
        self.checkout = Checkout(
            self.pool,
            self.clock,
            self.start_batcher,
            self.runner,
            self.registry,
            self.admission,
            Quota(per_minute=settings.subject_starts_per_minute, under_way_max=settings.subject_sagas_max),
            deadline_seconds=settings.request_deadline_seconds,
        )
        self.recovery = Recovery(
            self.process_id,
            self.pool,
            self.runner,
            self.admission,
            host_clock=self.host_clock,
            lease=self.lease,
            lease_pool=connections.lease_pool,
            sweep_seconds=settings.sweep_interval_seconds,
        )
        self.expiry = Expiry(
            self.pool, self.checkout, self.registry, self.admission, interval_seconds=settings.expiry_interval_seconds
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "OrderProcess":
        for part in (self.start_batcher, self.transition_batcher, self.participants):
            await self._stack.enter_async_context(part)
        self._stack.push_async_callback(self.registry.cancel_all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
