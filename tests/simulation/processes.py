"""The simulated processes: order replicas and participants, the product's own parts put together over links."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from services.order.__main__ import COMMIT_BATCH_MAX, DRAIN_SECONDS
from services.order.checkout import Checkout
from services.order.engine.admission import Admission, Lease
from services.order.engine.operations import Start, Started
from services.order.engine.participants import Participants
from services.order.engine.recovery import Ownership
from services.order.engine.runner import Runner
from services.order.engine.starts import Starts
from services.order.engine.transitions import Change, Changed, Transitions
from services.order.expiry import Expiry
from services.order.saga import Participant
from shared.batcher import Batcher, one_by_one_when
from shared.host_clock import HostClock
from shared.ids import uuid7
from shared.postgres import DatabaseClock, is_about_the_batch
from shared.refusals import Refusal, Unavailable
from tests.infrastructure.desks import Answer, Desk
from tests.simulation.links import LinkedPool, LinkedSession
from tests.simulation.loop import Actor
from tests.simulation.network import Network, NetworkChannel
from tests.simulation.world import CLOCK_SKEW_SECONDS, LEASE_SECONDS, World

T = TypeVar("T")

SAGAS_MAX = 100
SWEEP_SECONDS = 1.5
EXPIRY_INTERVAL_SECONDS = 4.0
REQUEST_DEADLINE_SECONDS = 8.0
CURRENCY = "KRW"


class OrderReplica:
    """One process of the order service, as services/order/__main__.py puts it together."""

    def __init__(self, world: World, network: Network, name: str, *, payment_timeout_seconds: float) -> None:
        self._world = world
        self._network = network
        self._payment_timeout_seconds = payment_timeout_seconds
        skew = (world.dice.random() * 2 - 1) * CLOCK_SKEW_SECONDS
        self.actor = Actor(name, clock_skew_seconds=skew)
        self.checkout: Checkout | None = None
        self.process_id: UUID | None = None
        world.loop.spawn(self.actor, self._serve())

    def call(self, use_case: Callable[[Checkout], Awaitable[T]]) -> "asyncio.Future[T | Refusal]":
        """Have a use case run in this process; its result arrives as an HTTP answer would, or never does."""
        answer = self._world.loop.create_future()
        self._world.loop.spawn(self.actor, self._handle(use_case, answer))
        return answer

    async def _handle(self, use_case: Callable[[Checkout], Awaitable[T]], answer: "asyncio.Future[Any]") -> None:
        await self._world.travel()
        try:
            if self.checkout is None or self.actor.stopping.is_set():
                raise Unavailable("not ready")
            result: Any = await use_case(self.checkout)
        except (Refusal, Unavailable) as error:
            result = error
        await self._world.travel()
        if not answer.done():
            answer.set_result(result)

    async def _serve(self) -> None:
        process_id = self.process_id = uuid7()
        pool = LinkedPool(self._world, self._world.orders)
        clock = DatabaseClock(asyncio.get_running_loop().time)
        starts = Starts(self._session(), clock, process_id, CURRENCY, self._payment_timeout_seconds)
        transitions = Transitions(self._session(), clock, process_id)
        start_batcher = Batcher[Start, Started](
            "starts",
            one_by_one_when(is_about_the_batch, starts.commit),
            batch_max=COMMIT_BATCH_MAX,
            queue_max=SAGAS_MAX,
        )
        transition_batcher = Batcher[Change, Changed | None](
            "transitions",
            one_by_one_when(is_about_the_batch, transitions.commit),
            batch_max=COMMIT_BATCH_MAX,
            queue_max=SAGAS_MAX,
        )
        participants = Participants({place: place.value for place in Participant}, self._channel)
        runner = Runner(process_id, pool, participants, transition_batcher)
        # Not `async with`: a process that is killed must not tidy up when its coroutines are thrown away.
        parts = (start_batcher, transition_batcher, participants, runner)
        for part in parts:
            await part.__aenter__()
        lease = Lease(LEASE_SECONDS)
        admission = Admission(runner.running, SAGAS_MAX, (lease.check,))
        checkout = Checkout(pool, clock, start_batcher, runner, admission, deadline_seconds=REQUEST_DEADLINE_SECONDS)
        ownership = Ownership(
            process_id,
            pool,
            runner,
            admission,
            host_clock=HostClock(clock),
            lease=lease,
            lease_pool=pool,
            sweep_seconds=SWEEP_SECONDS,
        )
        expiry = Expiry(pool, checkout, runner.running, admission, interval_seconds=EXPIRY_INTERVAL_SECONDS)
        await ownership.renew()
        self.checkout = checkout
        keeping = self._world.loop.start(self.actor, ownership.keep_lease())
        loops = [self._world.loop.start(self.actor, loop) for loop in (ownership.sweep(), expiry.run())]
        await self.actor.stopping.wait()
        for task in loops:
            task.cancel()
        runner.running.hurry()
        await runner.running.drain(DRAIN_SECONDS)
        keeping.cancel()
        await ownership.give_up()
        await runner.__aexit__()
        self.actor.alive = False

    def _session(self) -> LinkedSession:
        return LinkedSession(self._world, self._world.orders)

    def _channel(self, place: str) -> NetworkChannel:
        return NetworkChannel(self._world, self._network, place)


class ParticipantProcess:
    """One process of a participant: its command desk and its batches, without the HTTP around them."""

    def __init__(self, world: World, place: Participant) -> None:
        self._world = world
        database = {
            Participant.PRODUCT: world.products,
            Participant.COUPON: world.coupons,
            Participant.BALANCE: world.balances,
        }[place]
        self._desk = Desk(place, LinkedSession(world, database))
        self.actor = Actor(place)
        world.loop.spawn(self.actor, self._serve())

    async def _serve(self) -> None:
        await self._desk.__aenter__()
        await self.actor.stopping.wait()
        await self._desk.__aexit__()
        self.actor.alive = False

    def take(self, body: bytes, reply: Callable[[Answer], None]) -> None:
        """Begin to serve a batch; `reply` gets the answer's status and body."""
        if self.actor.alive and not self.actor.stopping.is_set():
            self._world.loop.spawn(self.actor, self._answer(body, reply))
        else:
            reply((503, b""))

    async def _answer(self, body: bytes, reply: Callable[[Answer], None]) -> None:
        reply(await self._desk.answer(body))
