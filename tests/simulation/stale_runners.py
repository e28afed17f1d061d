"""Pauses a process that awaits a debit's outcome, and wakes it after other processes have changed its order.

Random faults rarely do this. The process wakes as a stale runner: what it knows of its saga is out of date. Only the
guards of its commits keep it from doing harm.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import orjson

from services.order.admin import acts
from services.order.domain import OrderId
from shared.refusals import Refusal
from tests.infrastructure.desks import Answer
from tests.simulation.customers import charge
from tests.simulation.links import LinkedPool
from tests.simulation.loop import Actor
from tests.simulation.memory.tables import Row
from tests.simulation.network import Network
from tests.simulation.processes import OrderReplica
from tests.simulation.world import World

LOOK_SECONDS = 0.05
WAKING_LOOK_SECONDS = 0.001
# How long the others get to do their part; if they don't, the former runner wakes up all the same.
PATIENCE_SECONDS = 12.0


@dataclass(slots=True)
class _Caught:
    """A process that was paused while it awaited the `answer` to a debit, which is `held` back meanwhile."""

    victim: Actor
    order_id: UUID
    answer: "asyncio.Future[Answer]"
    held: "asyncio.Future[Answer]"

    def release(self) -> None:
        """Hand the answer over if somebody still awaits it; reset the connection if there is none."""
        if self.answer.done():
            return
        if self.held.done() and self.held.exception() is None:
            self.answer.set_result(self.held.result())
        else:
            self.answer.set_exception(ConnectionResetError())


class StaleRunner:
    """Makes one stale runner in one history."""

    def __init__(self, world: World, network: Network, replicas: list[OrderReplica]) -> None:
        self._world = world
        self._network = network
        self._replicas = replicas
        self._caught: asyncio.Future[_Caught] = world.loop.create_future()
        self._then = world.dice.choice((self._paid_anew, self._turned_round, self._stuck_halfway))

    @property
    def begun(self) -> bool:
        """Whether a process is paused for it."""
        return self._caught.done()

    async def play(self) -> None:
        """Wait, pause the next process that sends a suitable debit, and wake it when the order has changed."""
        dice = self._world.dice
        await asyncio.sleep(dice.random() * 4)
        self._network.watch = self._intercept
        caught = await self._caught
        self._world.note(f"stale runner {self._then.__name__} of {caught.order_id}")
        try:
            await self._then(caught)
            self._network.closed.clear()
            self._world.wake(caught.victim)
            await asyncio.sleep(dice.random() * 0.2)
        finally:
            caught.release()

    def _intercept(self, sender: Actor, body: bytes, answer: "asyncio.Future[Answer]") -> "asyncio.Future[Answer]":
        """Freeze the sender of a debit, and hold the answer back; return the future that takes it."""
        debits = [command for command in orjson.loads(body)["commands"] if command["type"] == "debit"]
        if not debits or self._caught.done():
            return answer
        account = self._world.balances.accounts.get(debits[0]["user_id"])
        enough = account is not None and account["balance"] >= debits[0]["amount"]
        if enough == (self._then == self._paid_anew):  # it takes a refused payment, the others one that is applied
            return answer
        self._world.loop.freeze(sender)
        # A pause right after the answer would leave it as stale, and to commit it; one that timed out is asked anew.
        self._network.without_limit.add(answer)
        caught = _Caught(sender, UUID(debits[0]["order_id"]), answer, self._world.loop.create_future())
        self._caught.set_result(caught)
        return caught.held

    async def _paid_anew(self, caught: _Caught) -> None:
        """Another process ends the payment; the customer pays again, first at the victim as it wakes."""
        order = self._world.orders.orders.rows[caught.order_id]
        await self._until(lambda: self._live(caught.order_id) is None)
        await charge(self._world, order["user_id"], order["total_amount"] or 1)
        self._world.wake(caught.victim)
        replicas = sorted(self._replicas, key=lambda replica: replica.actor is not caught.victim)
        # It must begin the new payment while its old runner is still stale, and without a lease it begins nothing.
        await self._until(lambda: replicas[0].lease is None or replicas[0].lease.valid, WAKING_LOOK_SECONDS)
        for replica in replicas:
            _ = replica.call(lambda checkout: checkout.pay(OrderId(caught.order_id), None))
            await asyncio.sleep(0.02 + self._world.dice.random() * 0.03)

    async def _turned_round(self, caught: _Caught) -> None:
        """An operator forces the saga; who undoes it dies halfway; the victim wakes when that lease has run out."""
        await self._force(caught.order_id)
        await self._kill_when(caught, lambda _: self._undoing(caught.order_id))
        await self._wake_as_owner(caught)

    async def _stuck_halfway(self, caught: _Caught) -> None:
        """Likewise, but the balance service is away, so that the saga gets stuck with the rest undone."""
        self._network.closed.add("balance")
        await self._force(caught.order_id)
        await self._kill_when(caught, lambda saga: saga["stuck"] or saga["status"] == "RUNNING")
        self._network.closed.clear()
        await self._wake_as_owner(caught)

    async def _wake_as_owner(self, caught: _Caught) -> None:
        """Wake the victim once the killed process's lease has run out, and wait until it has taken its saga back.

        Until then the owner guard alone stops its stale runner: a process sweeps only while it has a lease.
        """
        orders = self._world.orders
        saga = self._live(caught.order_id)
        lease = orders.processes.rows.get(saga["owner"]) if saga is not None else None
        if lease is not None:  # else nobody owns it
            await self._until(lambda: lease["lease_until"] <= orders.clock(), WAKING_LOOK_SECONDS)
        self._world.wake(caught.victim)
        victims = [replica.process_id for replica in self._replicas if replica.actor is caught.victim]

        def owns() -> bool:
            saga = self._live(caught.order_id)
            return saga is None or saga["owner"] in victims

        await self._until(owns, WAKING_LOOK_SECONDS)

    async def _force(self, order_id: UUID) -> None:
        saga = self._live(order_id)
        if saga is None:
            return
        try:
            await acts.force(LinkedPool(self._world, self._world.orders), saga["saga_id"], acts.Who("operator", "why"))
        except Refusal:
            self._world.note("operator refused")

    async def _kill_when(self, caught: _Caught, reached: Callable[[Row], object]) -> None:
        """Kill whoever else has the saga, in the moment that it gets there."""

        def look() -> None:
            saga = self._live(caught.order_id)
            if saga is not None and saga["owner"] in owners and reached(saga):
                owners[saga["owner"]].alive = False

        owners = {
            replica.process_id: replica.actor
            for replica in self._replicas
            if replica.process_id is not None and replica.actor is not caught.victim
        }
        self._world.after_commit = look
        await self._until(lambda: not all(actor.alive for actor in owners.values()))
        self._world.after_commit = None

    def _live(self, order_id: UUID) -> Row | None:
        return next((saga for saga in self._world.orders.live() if saga["order_id"] == order_id), None)

    def _undoing(self, order_id: UUID) -> bool:
        databases = (self._world.products, self._world.coupons, self._world.balances)
        gates = [database.gates.get(order_id) for database in databases]
        return any(gate is not None and gate["closed"] for gate in gates)

    async def _until(self, reached: Callable[[], object], look_seconds: float = LOOK_SECONDS) -> None:
        deadline = self._world.loop.time() + PATIENCE_SECONDS
        while not reached() and self._world.loop.time() < deadline:  # noqa: ASYNC110 - nobody signals what is looked for
            await asyncio.sleep(look_seconds)
