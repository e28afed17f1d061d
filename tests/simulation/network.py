"""Simulates the network between order processes and participants: it loses, delays, repeats and reorders messages."""

import asyncio
from collections.abc import Callable, Mapping

from services.order.engine.participants import CALL_TIMEOUT_SECONDS
from tests.infrastructure.in_process_participants import Answer
from tests.simulation.loop import WORLD_CONTEXT, Actor, current
from tests.simulation.world import World

Withhold = Callable[[Actor, str, bytes, "asyncio.Future[Answer]"], bool]
Serve = Callable[[bytes, Callable[[Answer], None]], None]
# Far above every time limit: a message this late arrives after the saga was undone or the order was closed.
LATE_SECONDS = 25.0


class Network:
    """Carries batches of commands. `sent` keeps them all, so that a history can repeat each at its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.servers: dict[str, Serve] = {}
        self.sent: list[tuple[str, bytes]] = []
        # For stale runners. `withhold` gets each message and returns whether it delivers the message itself. `closed`
        # contains the participants that cannot be reached.
        self.withhold: Withhold = lambda _sender, _place, _body, _answer: False
        self.closed: set[str] = set()
        # The answers of calls that have no time limit.
        self.without_limit: set[asyncio.Future[Answer]] = set()

    def carry(self, place: str, body: bytes, answer: "asyncio.Future[Answer]") -> None:
        """Deliver a message never, once or twice, and its answer to the future `answer` or nowhere."""
        world = self._world
        self.sent.append((place, body))
        if world.happens("message_repeated"):
            self._arrive_in(world.rng.random() * LATE_SECONDS, place, body, None)
        if world.happens("message_lost"):
            if world.rng.random() < 0.5:
                world.loop.call_later(world.some_delay(), _reset, answer, context=WORLD_CONTEXT)
            return
        late = world.happens("message_late")
        self._arrive_in(world.rng.random() * LATE_SECONDS if late else world.some_delay(), place, body, answer)

    def _arrive_in(self, seconds: float, place: str, body: bytes, answer: "asyncio.Future[Answer] | None") -> None:
        self._world.loop.call_later(seconds, self._arrive, place, body, answer, context=WORLD_CONTEXT)

    def _arrive(self, place: str, body: bytes, answer: "asyncio.Future[Answer] | None") -> None:
        self._world.note(f"arrives {place} {body!r}")
        if place in self.closed:
            self._answer((503, b""), answer)
        else:
            self.servers[place](body, lambda given: self._answer(given, answer))

    def _answer(self, given: Answer, answer: "asyncio.Future[Answer] | None") -> None:
        world = self._world
        if answer is None or world.happens("reply_lost"):
            return
        deliver = _reset if world.happens("reply_reset") else _resolve
        world.loop.call_later(world.some_delay(), deliver, answer, given, context=WORLD_CONTEXT)


def _resolve(answer: "asyncio.Future[Answer]", given: Answer) -> None:
    if not answer.done():
        answer.set_result(given)


def _reset(answer: "asyncio.Future[Answer]", _given: Answer | None = None) -> None:
    if not answer.done():
        answer.set_exception(ConnectionResetError())


class NetworkChannel:
    """A process's channel to one participant, for services.order.engine.participants."""

    def __init__(self, world: World, network: Network, place: str) -> None:
        self._world = world
        self._network = network
        self._place = place

    async def __aenter__(self) -> "NetworkChannel":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def post(self, body: bytes, _headers: Mapping[str, str]) -> Answer:
        """Send a batch and wait for its answer. Raises ConnectionResetError or TimeoutError."""
        await self._world.delay()
        answer: asyncio.Future[Answer] = self._world.loop.create_future()
        if not self._network.withhold(current.get(), self._place, body, answer):
            self._network.carry(self._place, body, answer)
        async with asyncio.timeout(None if answer in self._network.without_limit else CALL_TIMEOUT_SECONDS):
            given = await answer
        await self._world.delay()
        return given
