"""The order process, put together in one place: production, tests and the simulator use the same assembly."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from services.order.checkout import Checkout
from services.order.engine.admission import Admission, Lease
from services.order.engine.operations import Start, Started
from services.order.engine.participants import Channel, HttpChannel, Participants
from services.order.engine.recovery import Recovery
from services.order.engine.registry import SagaRegistry
from services.order.engine.runner import Runner
from services.order.engine.starts import Starts
from services.order.engine.transitions import TransitionRequest, TransitionResult, Transitions
from services.order.expiry import Expiry
from services.order.settings import Settings
from shared.batcher import Batcher, Work, one_by_one_when
from shared.database_clock import DatabaseClock
from shared.host_clock import HostClock
from shared.ids import uuid7
from shared.pacing import BatchScheduler
from shared.postgres import Pool, Session, is_about_the_batch

# The batchers in the order in which a checkout passes them; as many batches at once as these is no limit.
STEPS = ("starts", "product", "coupon", "balance", "transitions")
COMMIT_BATCH_MAX = 256  # past this the latency of a batch grows faster than throughput


@dataclass(frozen=True, slots=True)
class Connections:
    """The database connections of one process. The two kinds of commit and the lease have connections of their own."""

    pool: Pool
    lease_pool: Pool
    starts: Session
    transitions: Session

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["Connections"]:
        """Open all of them, and close them after the body."""
        async with (
            Pool(settings, "order") as pool,
            Session(settings, "order starts") as starts,
            Session(settings, "order transitions") as transitions,
            Pool(settings, "order lease", size=1) as lease_pool,
        ):
            yield cls(pool, lease_pool, starts, transitions)


@dataclass(frozen=True, slots=True)
class OrderProcess:
    """One process of the order service, without its HTTP server and its loops.

    Entering it starts the batchers. Leaving it stops the sagas that still run, and then the batchers.
    """

    process_id: UUID
    pool: Pool
    clock: DatabaseClock
    host_clock: HostClock
    starts: Starts
    transitions: Transitions
    start_batcher: Batcher[Start, Started]
    transition_batcher: Batcher[TransitionRequest, TransitionResult | None]
    participants: Participants
    registry: SagaRegistry
    runner: Runner
    lease: Lease
    admission: Admission
    checkout: Checkout
    recovery: Recovery
    expiry: Expiry
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @classmethod
    def assemble(
        cls,
        settings: Settings,
        connections: Connections,
        *,
        channel: Callable[[str], Channel] = HttpChannel,
        participants_type: Callable[..., Participants] = Participants,
        batcher_type: Callable[..., Batcher[Any, Any]] = Batcher,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> "OrderProcess":
        """Put a process together. Everything after `connections` is there for tests to replace.

        `channel` makes the way to the participant at a URL. `batcher_type` makes the two batchers of commits. `sleep`
        waits before a retry, in seconds. `elapsed` is the clock, in seconds, that measures the age of the database's
        last time.
        """
        process_id, pool = uuid7(), connections.pool
        clock = DatabaseClock(elapsed)
        host_clock = HostClock(clock)
        starts = Starts(connections.starts, clock, process_id, settings.currency, settings.payment_timeout_seconds)
        transitions = Transitions(connections.transitions, clock, process_id)
        limited = settings.batches_at_once < len(STEPS)
        scheduler = BatchScheduler(settings.batches_at_once, STEPS) if limited else None

        def batcher(name: str, commit: Work[Any, Any]) -> Batcher[Any, Any]:
            work = one_by_one_when(is_about_the_batch, commit)
            queue_max = settings.sagas_max * 2
            return batcher_type(name, work, batch_max=COMMIT_BATCH_MAX, queue_max=queue_max, scheduler=scheduler)

        start_batcher: Batcher[Start, Started] = batcher("starts", starts.commit)
        transition_batcher: Batcher[TransitionRequest, TransitionResult | None] = batcher(
            "transitions", transitions.commit
        )
        participants = participants_type(settings.participant_urls, channel, scheduler=scheduler)
        registry = SagaRegistry()
        runner = Runner(process_id, pool, participants, transition_batcher, registry, sleep=sleep)
        lease = Lease(settings.lease_seconds)
        admission = Admission(registry, settings.sagas_max, (lease.check, host_clock.check))
        checkout = Checkout(
            pool,
            clock,
            start_batcher,
            runner,
            registry,
            admission,
            deadline_seconds=settings.request_deadline_seconds,
        )
        recovery = Recovery(
            process_id,
            pool,
            runner,
            admission,
            host_clock=host_clock,
            lease=lease,
            lease_pool=connections.lease_pool,
            sweep_seconds=settings.sweep_interval_seconds,
        )
        expiry = Expiry(pool, checkout, registry, admission, interval_seconds=settings.expiry_interval_seconds)
        return cls(
            process_id,
            pool,
            clock,
            host_clock,
            starts,
            transitions,
            start_batcher,
            transition_batcher,
            participants,
            registry,
            runner,
            lease,
            admission,
            checkout,
            recovery,
            expiry,
        )

    async def __aenter__(self) -> "OrderProcess":
        for part in (self.start_batcher, self.transition_batcher, self.participants):
            await self._stack.enter_async_context(part)
        self._stack.push_async_callback(self.registry.cancel_all)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
