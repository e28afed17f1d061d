"""One history: a market, customers and faults for a while; then all faults end, everything must come to rest, every
message arrives once more, and what waits for a payment must be payable."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from services.order.checkout import Checkout, Pending
from services.order.domain import OrderId
from services.order.saga import Participant
from shared.refusals import Unavailable
from tests.infrastructure.desks import Answer
from tests.simulation.books import demand
from tests.simulation.customers import PATIENCE_SECONDS, Customer, Market, charge, operate
from tests.simulation.forgetting import forget_all, forget_now_and_then, is_past
from tests.simulation.network import Network
from tests.simulation.processes import OrderReplica, ParticipantProcess
from tests.simulation.sources import virtual_sources
from tests.simulation.stale_runners import StaleRunner
from tests.simulation.world import World

# What design says of recovery: all sagas end within this time after the last fault.
REST_SECONDS = 60.0
WITH_STALE_RUNNER = 0.35  # of all histories
STALE_RUNNER_SECONDS = 12.0  # two leases run out one after the other, and sweeps follow; else most are cut short
# Far longer than any history takes: one that is not over by then waits for something that never comes.
HISTORY_SECONDS = 900.0
RESTART_SECONDS = 3.0
LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Told:
    """What a history came to: steps taken, the trace's hash, and how often each kind of trouble struck."""

    seed: int
    steps: int
    hash: int
    hits: dict[str, int]
    violation: str | None
    trace: list[str]


def play(seed: int, *, recording: bool = False) -> Told:
    """Play the history of a seed to its end, or to the first violation."""
    world = World(seed, recording=recording)
    violation = None
    with virtual_sources(world):
        try:
            world.loop.run_until_complete(_History(world).run(), HISTORY_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever ends a history is what it is told to have ended with
            violation = f"{type(error).__name__}: {error}"
        finally:
            world.loop.close()
    return Told(seed, world.loop.steps, world.hash, world.hits, violation, world.trace or [])


class _History:
    def __init__(self, world: World) -> None:
        self._world = world
        self._network = Network(world)
        # Half of the histories see their unpaid orders expire.
        self._payment_timeout_seconds = world.dice.choice((2.0, 6.0, 900.0, 900.0))
        self._started = 0
        self._replicas: list[OrderReplica] = []
        self._participants: dict[Participant, ParticipantProcess] = {}

    async def run(self) -> None:
        """Play the whole history. Raises ViolationError."""
        world = self._world
        market = await Market.opened(world)
        for place in Participant:
            self._start_participant(place)
        self._replicas = [self._start_replica() for _ in range(world.dice.randint(1, 3))]
        await asyncio.sleep(0.1)
        trouble = [
            asyncio.create_task(self._supervise()),
            asyncio.create_task(operate(world)),
            asyncio.create_task(forget_now_and_then(world)),
        ]
        crowd = [Customer(world, market, f"customer {n}", self._pick) for n in range(world.dice.randint(1, 4))]
        stale_runner = None
        if world.dice.random() < WITH_STALE_RUNNER:
            stale_runner = StaleRunner(world, self._network, self._replicas)
            trouble.append(asyncio.create_task(stale_runner.play()))
        await asyncio.gather(*(customer.live() for customer in crowd))
        await asyncio.sleep(world.dice.random() * 4)
        if stale_runner is not None and stale_runner.begun:
            await asyncio.wait(trouble[-1:], timeout=STALE_RUNNER_SECONDS)
        self._heal()
        for task in trouble[1:]:
            task.cancel()
        self._network.closed.clear()
        await self._rest()
        await self._repeat_every_message()
        await self._pay_what_waits()
        await self._rest()
        await self._repeat_every_message()
        await forget_all(world)
        await self._repeat_every_message()
        await self._cancel_what_is_paid()
        await self._rest()
        await forget_all(world)
        await self._repeat_every_message()

    # Processes ----------------------------------------------------------------------------------------------------

    def _start_replica(self) -> OrderReplica:
        self._started += 1
        name = f"order {self._started}"
        return OrderReplica(self._world, self._network, name, payment_timeout_seconds=self._payment_timeout_seconds)

    def _start_participant(self, place: Participant) -> None:
        process = ParticipantProcess(self._world, place)
        self._participants[place] = process
        self._network.servers[place.value] = process.take

    async def _supervise(self) -> None:
        """Start a process anew some time after it died."""
        while True:
            await asyncio.sleep(self._world.dice.random() * RESTART_SECONDS)
            for number, replica in enumerate(self._replicas):
                if not replica.actor.alive:
                    self._replicas[number] = self._start_replica()
            for place, process in self._participants.items():
                if not process.actor.alive:
                    self._start_participant(place)

    def _pick(self) -> OrderReplica:
        return self._world.dice.choice(self._replicas)

    # After the trouble --------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self._world
        world.note("heals")
        world.calm_down()
        processes: list[OrderReplica | ParticipantProcess] = [*self._replicas, *self._participants.values()]
        for process in processes:
            world.wake(process.actor)

    async def _rest(self) -> None:
        """Wait until no saga is live."""
        deadline = self._world.loop.time() + REST_SECONDS
        while live := list(self._world.orders.live()):
            demand(self._world.loop.time() < deadline, "not ended {} s after the last fault: {}", REST_SECONDS, live)
            await asyncio.sleep(LOOK_SECONDS)

    async def _repeat_every_message(self) -> None:
        """Have every message that was ever sent arrive once more, in any order: nothing may change by it."""
        messages = list(dict.fromkeys(self._network.sent))
        self._world.dice.shuffle(messages)
        for place, body in messages:
            arrived: asyncio.Future[Answer] = self._world.loop.create_future()
            self._network.servers[place](body, arrived.set_result)
            await arrived

    async def _pay_what_waits(self) -> None:
        """Pay the orders that wait for it, with enough money: none may be refused."""
        for order in list(self._world.orders.orders):
            if order["status"] != "PENDING_PAYMENT" or self._payment_timeout_seconds < REST_SECONDS:
                continue
            await charge(self._world, order["user_id"], order["total_amount"] or 1)
            order_id = OrderId(order["order_id"])
            answer = await self._pay(order_id)
            now = self._world.orders.orders.rows[order_id]
            wanted = ("PAID", "CANCELLED") if is_past(self._world, order_id) else ("PAID",)
            demand(now["status"] in wanted, "an order with enough money can't be paid: {}, {}", answer, now)

    async def _cancel_what_is_paid(self) -> None:
        """Cancel orders of which all is forgotten that can be: whatever they took has to come back."""
        for order in list(self._world.orders.orders):
            if order["status"] == "PAID":
                order_id = OrderId(order["order_id"])
                answer = await self._insist(partial(Checkout.cancel, order_id=order_id, key=None))
                now = self._world.orders.orders.rows[order_id]
                demand(now["status"] == "REFUNDED", "an old order was not refunded: {}, {}", answer, now)

    async def _pay(self, order_id: OrderId) -> object:
        return await self._insist(lambda checkout: checkout.pay(order_id, None))

    async def _insist(self, use_case: Callable[[Checkout], Awaitable[object]]) -> object:
        while True:  # a process that was told to stop before the faults ended may still be on its way out
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    answer = await self._pick().call(use_case)
            except TimeoutError:
                continue
            if not isinstance(answer, Unavailable | Pending):
                return answer
            await asyncio.sleep(LOOK_SECONDS)
