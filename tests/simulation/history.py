"""Plays one history: customers and faults for some seconds, then checks of the state after all faults have ended.

Then all sagas must end, every message arrives once more, and every unpaid order must be payable."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from services.order.checkout import Checkout, Pending
from services.order.domain import OrderId
from shared.refusals import Unavailable
from tests.infrastructure.in_process_participants import Answer
from tests.simulation.customers import REQUEST_TIMEOUT_SECONDS, Customer, Market, charge, operate
from tests.simulation.invariants import demand
from tests.simulation.loop import WORLD
from tests.simulation.network import Network
from tests.simulation.processes import OrderReplica, ParticipantProcess
from tests.simulation.pruning import is_past, prune_all, prune_sometimes
from tests.simulation.sources import virtual_sources
from tests.simulation.stale_runners import StaleRunner
from tests.simulation.world import World

# The design's bound for recovery: all sagas end within this time after the last fault.
REST_SECONDS = 60.0
WITH_STALE_RUNNER = 0.35  # of all histories
STALE_RUNNER_SECONDS = 12.0  # longer than a scenario: two leases end one after the other, and sweeps follow
# Far longer than any history takes: one that exceeds it hangs.
HISTORY_SECONDS = 900.0
RESTART_SECONDS = 3.0
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class HistoryResult:
    """The result of a history: its steps, the hash of its trace, and how often each kind of fault happened."""

    seed: int
    steps: int
    hash: int
    hits: dict[str, int]
    violation: str | None
    trace: list[str]


def play(seed: int, *, recording: bool = False) -> HistoryResult:
    """Play the history of a seed to its end, or to the first violation."""
    world = World(seed, recording=recording)
    violation = None
    with virtual_sources(world):
        try:
            world.loop.run_until_complete(_History(world).run(), HISTORY_SECONDS)
        except Exception as error:  # noqa: BLE001 - every error that ends a history is its violation
            violation = f"{type(error).__name__}: {error}"
        finally:
            world.loop.close()
    return HistoryResult(seed, world.loop.steps, world.hash, world.hits, violation, world.trace or [])


class _History:
    def __init__(self, world: World) -> None:
        self._world = world
        self._network = Network(world)
        # Half of the histories see their unpaid orders expire.
        self._payment_timeout_seconds = world.rng.choice((2.0, 6.0, 900.0, 900.0))
        self._started = 0
        self._replicas: list[OrderReplica] = []
        self._participants: dict[str, ParticipantProcess] = {}

    async def run(self) -> None:
        """Play the whole history. Raises ViolationError."""
        world = self._world
        market = await Market.opened(world)
        for place in world.participants:
            self._start_participant(place)
        with_stale_runner = world.rng.random() < WITH_STALE_RUNNER
        # A runner gets stale only if another process runs its saga.
        self._replicas = [self._start_replica() for _ in range(world.rng.randint(2 if with_stale_runner else 1, 3))]
        await asyncio.sleep(0.1)
        faults = [
            world.loop.start(WORLD, self._supervise()),
            world.loop.start(WORLD, operate(world)),
            world.loop.start(WORLD, prune_sometimes(world)),
        ]
        customers = [Customer(world, market, f"customer {n}", self._pick) for n in range(world.rng.randint(1, 4))]
        stale_runner = None
        if with_stale_runner:
            stale_runner = StaleRunner(world, self._network, self._replicas)
            faults.append(world.loop.start(WORLD, stale_runner.play()))
        await asyncio.gather(*(customer.run() for customer in customers))
        await asyncio.sleep(world.rng.random() * 4)
        if stale_runner is not None and stale_runner.begun:
            await asyncio.wait(faults[-1:], timeout=STALE_RUNNER_SECONDS)
        self._heal()
        for task in faults[1:]:
            task.cancel()
        self._network.closed.clear()
        await self._wait_for_all_sagas()
        await self._repeat_every_message()
        await self._pay_all_unpaid()
        await self._wait_for_all_sagas()
        await self._repeat_every_message()
        await prune_all(world)
        await self._repeat_every_message()
        await self._cancel_all_paid()
        await self._wait_for_all_sagas()
        await prune_all(world)
        await self._repeat_every_message()

    # Processes ----------------------------------------------------------------------------------------------------

    def _start_replica(self) -> OrderReplica:
        self._started += 1
        name = f"order {self._started}"
        return OrderReplica(self._world, self._network, name, payment_timeout_seconds=self._payment_timeout_seconds)

    def _start_participant(self, place: str) -> None:
        process = ParticipantProcess(self._world, place)
        self._participants[place] = process
        self._network.servers[place] = process.take

    async def _supervise(self) -> None:
        """Replace each process some time after its end. Never returns."""
        while True:
            await asyncio.sleep(self._world.rng.random() * RESTART_SECONDS)
            for number, replica in enumerate(self._replicas):
                if not replica.actor.alive:
                    self._replicas[number] = self._start_replica()
            for place, process in self._participants.items():
                if not process.actor.alive:
                    self._start_participant(place)

    def _pick(self) -> OrderReplica:
        return self._world.rng.choice(self._replicas)

    # After the faults --------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self._world
        world.note("heals")
        world.end_faults()
        processes: list[OrderReplica | ParticipantProcess] = [*self._replicas, *self._participants.values()]
        for process in processes:
            world.wake(process.actor)

    async def _wait_for_all_sagas(self) -> None:
        """Wait until no saga is live."""
        deadline = self._world.loop.time() + REST_SECONDS
        while live := list(self._world.orders.live()):
            demand(self._world.loop.time() < deadline, "not ended {} s after the last fault: {}", REST_SECONDS, live)
            await asyncio.sleep(POLL_SECONDS)

    async def _repeat_every_message(self) -> None:
        """Deliver every message of the history once more, in random order. None may have an effect."""
        messages = list(dict.fromkeys(self._network.sent))
        self._world.rng.shuffle(messages)
        for place, body in messages:
            arrived: asyncio.Future[Answer] = self._world.loop.create_future()
            self._network.servers[place](body, arrived.set_result)
            await arrived

    async def _pay_all_unpaid(self) -> None:
        """Pay all unpaid orders with enough money. None may be refused."""
        for order in list(self._world.orders.orders):
            if order["status"] != "PENDING_PAYMENT" or self._payment_timeout_seconds < REST_SECONDS:
                continue
            await charge(self._world, order["user_id"], order["total_amount"] or 1)
            order_id = OrderId(order["order_id"])
            answer = await self._pay(order_id)
            now = self._world.orders.orders.rows[order_id]
            wanted = ("PAID", "CANCELLED") if is_past(self._world, order_id) else ("PAID",)
            demand(now["status"] in wanted, "an order with enough money can't be paid: {}, {}", answer, now)

    async def _cancel_all_paid(self) -> None:
        """Cancel all paid orders after their pruning. Each must be refunded."""
        for order in list(self._world.orders.orders):
            if order["status"] == "PAID":
                order_id = OrderId(order["order_id"])
                answer = await self._retry_until_answered(partial(Checkout.cancel, order_id=order_id, key=None))
                now = self._world.orders.orders.rows[order_id]
                demand(now["status"] == "REFUNDED", "an old order was not refunded: {}, {}", answer, now)

    async def _pay(self, order_id: OrderId) -> object:
        return await self._retry_until_answered(lambda checkout: checkout.pay(order_id, None))

    async def _retry_until_answered(self, use_case: Callable[[Checkout], Awaitable[object]]) -> object:
        while True:  # a process that got SIGTERM before the faults ended may not have ended yet
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                    answer = await self._pick().call(use_case)
            except TimeoutError:
                continue
            if not isinstance(answer, Unavailable | Pending):
                return answer
            await asyncio.sleep(POLL_SECONDS)
