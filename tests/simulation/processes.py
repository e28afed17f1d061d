"""Assembles the simulated processes, order replicas and participants, from the product's own parts."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from services.order.__main__ import DRAIN_SECONDS
from services.order.checkout import Checkout
from services.order.engine.admission import Lease
from services.order.process import Connections, OrderProcess
from services.order.product_shards import participant_at
from services.order.settings import Settings
from shared.refusals import Refusal, Unavailable
from tests.infrastructure.in_process_participants import PARTICIPANT_URLS, Answer, InProcessParticipant
from tests.simulation.links import LinkedPool, LinkedSession
from tests.simulation.loop import Actor
from tests.simulation.network import Network, NetworkChannel
from tests.simulation.world import CLOCK_SKEW_SECONDS, LEASE_SECONDS, World

T = TypeVar("T")

SAGAS_MAX = 100
SWEEP_SECONDS = 0.4
EXPIRY_INTERVAL_SECONDS = 4.0
REQUEST_DEADLINE_SECONDS = 8.0
BATCHES_AT_ONCE = 2  # as on a host with two cores; this host's number of cores must not change a history
CURRENCY = "KRW"


@cache  # reading them takes a third of a history's time
def _settings(payment_timeout_seconds: float, product_places: tuple[str, ...]) -> Settings:
    several = [f"http://{place}" for place in product_places if len(product_places) > 1]
    urls = {name: url for name, url in PARTICIPANT_URLS.items() if not (several and name == "product_url")}
    return Settings(
        database_url="postgresql://unused/",
        currency=CURRENCY,
        sagas_max=SAGAS_MAX,
        batches_at_once=BATCHES_AT_ONCE,
        request_deadline_seconds=REQUEST_DEADLINE_SECONDS,
        payment_timeout_seconds=payment_timeout_seconds,
        lease_seconds=LEASE_SECONDS,
        sweep_interval_seconds=SWEEP_SECONDS,
        expiry_interval_seconds=EXPIRY_INTERVAL_SECONDS,
        product_urls=tuple(several),
        **urls,
    )


class OrderReplica:
    """One process of the order service, with simulated connections."""

    def __init__(self, world: World, network: Network, name: str, *, payment_timeout_seconds: float) -> None:
        self._world = world
        self._network = network
        self._payment_timeout_seconds = payment_timeout_seconds
        skew = (world.rng.random() * 2 - 1) * CLOCK_SKEW_SECONDS
        self.actor = Actor(name, clock_skew_seconds=skew)
        self.checkout: Checkout | None = None
        self.process_id: UUID | None = None
        self.lease: Lease | None = None
        world.loop.spawn(self.actor, self._serve())

    def call(self, use_case: Callable[[Checkout], Awaitable[T]]) -> "asyncio.Future[T | Refusal]":
        """Run a use case in this process; return a future of its result, which may never arrive, as over HTTP."""
        answer = self._world.loop.create_future()
        self._world.loop.spawn(self.actor, self._handle(use_case, answer))
        return answer

    async def _handle(self, use_case: Callable[[Checkout], Awaitable[T]], answer: "asyncio.Future[Any]") -> None:
        await self._world.delay()
        try:
            if self.checkout is None or self.actor.stopping.is_set():
                raise Unavailable("not ready")
            result: Any = await use_case(self.checkout)
        except (Refusal, Unavailable) as error:
            result = error
        await self._world.delay()
        if not answer.done():
            answer.set_result(result)

    async def _serve(self) -> None:
        database = self._world.orders
        pool = LinkedPool(self._world, database)
        sessions = (LinkedSession(self._world, database), LinkedSession(self._world, database))
        process = OrderProcess(
            _settings(self._payment_timeout_seconds, self._world.product_shards.places),
            Connections(pool, pool, *sessions),
            channel=lambda url: NetworkChannel(self._world, self._network, url.removeprefix("http://")),
            elapsed=asyncio.get_running_loop().time,
        )
        self.process_id, self.lease = process.process_id, process.lease
        # Not `async with`: a killed process must not run `__aexit__` when its coroutines are closed.
        await process.__aenter__()
        await process.recovery.renew()
        self.checkout = process.checkout
        lease = self._world.loop.start(self.actor, process.recovery.keep_lease())
        loops = [self._world.loop.start(self.actor, loop) for loop in (process.recovery.sweep(), process.expiry.run())]
        await self.actor.stopping.wait()
        for task in loops:
            task.cancel()
        process.registry.release_waiters()
        await process.registry.drain(DRAIN_SECONDS)
        lease.cancel()
        await process.recovery.give_up()
        # Not `__aexit__`: if the history ended meanwhile, it would be closed halfway.
        await process.registry.cancel_all()
        self.actor.alive = False


class ParticipantProcess:
    """One process of a participant: its command executor and its batches, without HTTP."""

    def __init__(self, world: World, place: str) -> None:
        """`place`: a participant, or one of several product shards."""
        self._world = world
        session = LinkedSession(world, world.participants[place])
        self._participant = InProcessParticipant(participant_at(place), session)
        self.actor = Actor(place)
        world.loop.spawn(self.actor, self._serve())

    async def _serve(self) -> None:
        await self._participant.__aenter__()
        await self.actor.stopping.wait()
        await self._participant.__aexit__()
        self.actor.alive = False

    def take(self, body: bytes, reply: Callable[[Answer], None]) -> None:
        """Start serving a batch; call `reply` with the answer's status and body."""
        if self.actor.alive and not self.actor.stopping.is_set():
            self._world.loop.spawn(self.actor, self._answer(body, reply))
        else:
            reply((503, b""))

    async def _answer(self, body: bytes, reply: Callable[[Answer], None]) -> None:
        reply(await self._participant.answer(body))
