"""Plays one order at several product shards. Each shard treats its part of the hold in its own way, and the order
process is killed at one point.

Random histories reach most mixes of outcomes; here each mix meets a crash at each point.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from services.order.checkout import Pending
from services.order.domain import OrderId
from services.order.saga import HOLD
from services.order.store import Answer
from shared.refusals import Unavailable
from tests.infrastructure import in_process_participants as participants
from tests.simulation.customers import PRODUCTS, charge
from tests.simulation.history import POLL_SECONDS, REST_SECONDS
from tests.simulation.invariants import demand
from tests.simulation.loop import WORLD, current
from tests.simulation.memory.tables import Database
from tests.simulation.network import Network
from tests.simulation.processes import OrderReplica, ParticipantProcess
from tests.simulation.pruning import prune
from tests.simulation.sources import virtual_sources
from tests.simulation.world import SHARDS_MAX, World

USER, MONEY = "ann", 5000
TRY_SECONDS = 2.0  # far longer than a saga takes here; a process that was killed answers never
RUN_SECONDS = 300.0
VICTIM = "order 1"


class Treatment(StrEnum):
    """What a shard does with the first message that has its part of the hold."""

    APPLIES = "applies"
    REFUSES = "refuses"
    LOSES_COMMAND = "loses the command"
    LOSES_ANSWER = "loses the answer"
    CLOSED = "is closed before"
    FORGETS = "applies, loses the answer, and prunes the order"


Mix = Sequence[Treatment]
REJECTING = {Treatment.REFUSES, Treatment.CLOSED, Treatment.FORGETS}


@dataclass(frozen=True, slots=True)
class Played:
    """The result: the points at which the process could have been killed, and the violation, if there was one."""

    points: int
    violation: str | None


def play(mix: Mix, kill_at: int = 0) -> Played:
    """Place an order with a line for each shard, cancel it if it was paid, and check what is left.

    `mix`: by shard. `kill_at`: the number of the point at which the process is killed; 0 for none.
    """
    world = _World(len(mix), kill_at)
    violation = None
    with virtual_sources(world):
        try:
            world.loop.run_until_complete(_Run(world, mix).run(), RUN_SECONDS)
        except Exception as error:  # noqa: BLE001 - every error that ends a run is its violation
            violation = f"{type(error).__name__}: {error}"
        finally:
            world.loop.close()
    return Played(world.points, violation)


def play_all(mixes: Iterable[Mix], points: Callable[[int, int], Iterable[int]]) -> int:
    """Play each mix without a kill and with a kill at some points; return how many runs this took.

    `points`: given the number of the mix and of its last point. Raises ViolationError.
    """
    runs = 0
    for number, mix in enumerate(mixes):
        last = _checked(mix, 0).points
        for kill_at in points(number, last):
            _checked(mix, kill_at)
            runs += 1
        runs += 1
    return runs


def _checked(mix: Mix, kill_at: int) -> Played:
    played = play(mix, kill_at)
    demand(played.violation is None, "{}; mix {}, killed at {}", played.violation, [*map(str, mix)], kill_at)
    return played


class _World(World):
    """A world without random faults, which kills one process at its n-th point: a message, an answer or a commit."""

    def __init__(self, shards: int, kill_at: int) -> None:
        assert 1 < shards <= SHARDS_MAX
        super().__init__(seed=shards - 1)
        self.end_faults()
        assert len(self.products) == shards
        self.points = 0
        self._kill_at = kill_at

    def point(self) -> bool:
        """Pass a point of the process; return whether it is killed there."""
        actor = current.get()
        if actor.name != VICTIM:
            return False
        self.points += 1
        if self.points == self._kill_at:
            self.note("killed")
            actor.alive = False
        return not actor.alive

    def committed(self, database: Database) -> None:
        """Commit; a commit of the order's is a point after which the process may be killed."""
        before = self._state()
        super().committed(database)
        if self._state() != before:
            self.point()

    def _state(self) -> Sequence[Any]:
        return [(saga["saga_id"], saga["status"]) for saga in self.orders.sagas]


class _Network(Network):
    """Carries messages without faults, but for the first part of the hold at each shard."""

    def __init__(self, world: _World, treatments: Mapping[str, Treatment]) -> None:
        super().__init__(world)
        self._points = world
        self._treatments = dict(treatments)

    def carry(self, place: str, body: bytes, answer: "asyncio.Future[participants.Answer]") -> None:
        if self._points.point():
            return
        holds = [one for one in orjson.loads(body)["commands"] if one["type"] == HOLD.do]
        treatment = self._treatments.pop(place, Treatment.APPLIES) if holds else Treatment.APPLIES
        self.sent.append((place, body))
        order_id = UUID(holds[0]["order_id"]) if holds else None
        self._points.loop.spawn(WORLD, self._treat(treatment, place, body, answer, order_id))
        self._points.point()

    async def _treat(
        self,
        treatment: Treatment,
        place: str,
        body: bytes,
        answer: "asyncio.Future[participants.Answer]",
        order_id: UUID | None,
    ) -> None:
        await self._points.delay()
        if treatment is Treatment.CLOSED:
            undo = {"type": HOLD.undo, "order_id": str(order_id), "attempt": 0}
            await self.deliver(place, orjson.dumps({"commands": [undo]}))
        given = None if treatment is Treatment.LOSES_COMMAND else await self.deliver(place, body)
        if treatment is Treatment.FORGETS:
            assert order_id is not None
            await prune(self._points, place, UUID(int=order_id.int + 1))
        lost = treatment in (Treatment.LOSES_COMMAND, Treatment.LOSES_ANSWER, Treatment.FORGETS)
        if answer.done():
            return
        if lost or given is None:
            answer.set_exception(ConnectionResetError())
        else:
            answer.set_result(given)

    async def deliver(self, place: str, body: bytes) -> participants.Answer:
        """Deliver a message and return its answer."""
        arrived: asyncio.Future[participants.Answer] = self._points.loop.create_future()
        self.servers[place](body, arrived.set_result)
        return await arrived


class _Run:
    def __init__(self, world: _World, mix: Mix) -> None:
        self._world = world
        self._mix = dict(zip(world.products, mix, strict=True))
        self._network = _Network(world, self._mix)
        self._replica: OrderReplica | None = None

    async def run(self) -> None:
        """Play everything. Raises ViolationError."""
        world = self._world
        for product_id in PRODUCTS[len(self._mix)]:
            place = world.product_shards.place_of(product_id)
            stock = 0 if self._mix[place] is Treatment.REFUSES else 2
            world.products[place].create_product(product_id, product_id, 300, stock)
            world.products[place].commit()
        await charge(world, USER, MONEY)
        for place in world.participants:
            self._network.servers[place] = ParticipantProcess(world, place).take
        self._replica = self._start(VICTIM)
        lines = [(product_id, 1) for product_id in PRODUCTS[len(self._mix)]]
        await self._call(lambda checkout: checkout.place(USER, lines, None, pay_now=True, key=None))
        await self._wait_for_all_sagas()
        for order in list(world.orders.orders):
            wanted = "REJECTED" if REJECTING & set(self._mix.values()) else "PAID"
            demand(order["status"] == wanted, "the order is {}, not {}", order["status"], wanted)
            if order["status"] == "PAID":
                order_id = OrderId(order["order_id"])
                await self._call(lambda checkout, order_id=order_id: checkout.cancel(order_id, None))
                await self._wait_for_all_sagas()
                status = world.orders.orders.rows[order_id]["status"]
                demand(status in ("PAID", "REFUNDED"), "the cancelled order is {}", status)
        for place, body in dict.fromkeys(self._network.sent):
            await self._network.deliver(place, body)

    def _start(self, name: str) -> OrderReplica:
        return OrderReplica(self._world, self._network, name, payment_timeout_seconds=900.0)

    async def _call(self, use_case: Any) -> None:
        """Call the process until it answers or is killed; replace it if it was."""
        assert self._replica is not None
        answer = None
        while self._replica.actor.alive and not isinstance(answer, Answer):
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    answer = await self._replica.call(use_case)
            except TimeoutError:
                continue
            demand(isinstance(answer, Answer | Unavailable | Pending), "unexpected: {}", answer)
            await asyncio.sleep(POLL_SECONDS)  # the process has just started
        if not self._replica.actor.alive:
            self._replica = self._start("order 2")

    async def _wait_for_all_sagas(self) -> None:
        deadline = self._world.loop.time() + REST_SECONDS
        while list(self._world.orders.live()):
            demand(self._world.loop.time() < deadline, "a saga did not end")
            await asyncio.sleep(POLL_SECONDS)
            if self._replica is not None and not self._replica.actor.alive:
                self._replica = self._start("order 2")
