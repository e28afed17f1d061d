"""Pauses a process that awaits the outcome of a command, and wakes it after others have changed its order.

Random faults rarely do this. The process wakes with a stale runner: what the runner knows of its saga is out of date.
Only the guards of its commit prevent damage. README.md describes the scenarios.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson

from services.order.admin import acts
from services.order.domain import OrderId
from services.order.saga import DEBIT, REDEEM, Kind, Participant
from shared.refusals import Refusal, Unavailable
from tests.infrastructure.in_process_participants import Answer
from tests.simulation.customers import charge
from tests.simulation.links import LinkedPool
from tests.simulation.loop import Actor
from tests.simulation.memory.tables import Row
from tests.simulation.network import Network
from tests.simulation.processes import OrderReplica
from tests.simulation.world import World

POLL_SECONDS = 0.01
# If the other processes do not do their part within this time, the paused process wakes all the same.
SCENARIO_SECONDS = 12.0
PAUSE_PROBABILITY = 0.75  # for each sender of a suitable command; not 1, so that the first is not always the one
REPEAT_SECONDS = 0.5  # a message whose answer has not arrived by then is sent again


@dataclass(slots=True)
class _Paused:
    """A process that was paused when it sent `body` to `place`. `command` is in that message, which is withheld.

    `outcome` is the answer of the participant; the process gets it as `answer` after the scenario.
    """

    process: Actor
    place: str
    body: bytes
    command: Mapping[str, Any]
    answer: "asyncio.Future[Answer]"
    outcome: Answer | None = None

    @property
    def order_id(self) -> UUID:
        return UUID(self.command["order_id"])


Scenario = Callable[[_Paused], Awaitable[None]]


class StaleRunner:
    """Makes one stale runner in one history."""

    def __init__(self, world: World, network: Network, replicas: list[OrderReplica]) -> None:
        self._world = world
        self._network = network
        self._replicas = replicas
        self._paused: asyncio.Future[_Paused] = world.loop.create_future()
        self._scenario: Scenario = self._undo_partly

    @property
    def begun(self) -> bool:
        """Return whether a process was paused."""
        return self._paused.done()

    async def play(self) -> None:
        """Pause the sender of a suitable command, and wake it when other processes have changed the order."""
        self._network.withhold = self._pause_sender
        paused = await self._paused
        self._world.note(f"stale runner of {paused.order_id}: {self._scenario.__name__}")
        self._world.suspend_faults()
        for replica in self._replicas:
            if replica.actor is not paused.process:
                self._world.wake(replica.actor)
        try:
            await self._scenario(paused)
            self._world.wake(paused.process)
        finally:
            self._world.resume_faults()
            self._network.closed.clear()
            if paused.outcome is not None and not paused.answer.done():
                paused.answer.set_result(paused.outcome)
            elif not paused.answer.done():
                paused.answer.set_exception(ConnectionResetError())

    # The pause ----------------------------------------------------------------------------------------------------

    def _pause_sender(self, sender: Actor, place: str, body: bytes, answer: "asyncio.Future[Answer]") -> bool:
        """Pause the sender of a suitable command, and withhold the message; return whether it was."""
        if self._paused.done():
            return False
        for command in orjson.loads(body)["commands"]:
            if (scenarios := self._scenarios(command)) and self._world.rng.random() < PAUSE_PROBABILITY:
                self._scenario = self._world.rng.choice(scenarios)
                self._world.loop.freeze(sender)
                # The answer arrives after the pause. The runner must still await it then, and not send a repeat.
                self._network.without_limit.add(answer)
                self._paused.set_result(_Paused(sender, place, body, command, answer))
                return True
        return False

    def _scenarios(self, command: Mapping[str, Any]) -> tuple[Scenario, ...]:
        """Return the scenarios that a pause of this command's sender can begin; some several times, as their weight."""
        saga = self._live(UUID(command["order_id"]))
        if saga is None or saga["status"] != "RUNNING" or saga["kind"] not in (Kind.PAY, Kind.PLACE_NOW):
            return ()
        order = self._world.orders.orders.rows[saga["order_id"]]
        # Paying again takes about five seconds.
        if saga["kind"] == Kind.PAY and self._short_of_money(command) and self._seconds_to_expiry(order) > 5:
            return (*[self._pay_again] * 4, self._undo_partly, self._get_stuck)
        # After its last step, the runner commits as soon as it has the outcome.
        last = REDEEM if saga["kind"] == Kind.PAY and order["coupon_id"] is not None else DEBIT
        undone = (self._undo_partly, self._get_stuck) if command["type"] == last.do else ()
        return (*undone, self._arrive_late) if command["type"] == REDEEM.do else undone

    def _short_of_money(self, command: Mapping[str, Any]) -> bool:
        if command["type"] != DEBIT.do:
            return False
        account = self._world.balances.accounts.get(command["user_id"])
        return account is None or account["balance"] < command["amount"]

    def _seconds_to_expiry(self, order: Row) -> float:
        left: timedelta = order["expires_at"] - self._world.orders.clock()
        return left.total_seconds()

    async def _deliver(self, paused: _Paused) -> None:
        """Send the withheld message until it is answered."""
        while paused.outcome is None:
            answer: asyncio.Future[Answer] = self._world.loop.create_future()
            self._network.carry(paused.place, paused.body, answer)
            try:
                async with asyncio.timeout(REPEAT_SECONDS):
                    status, outcomes = await answer
            except (TimeoutError, ConnectionResetError):
                continue
            if status == 200:
                paused.outcome = status, outcomes
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def _deliver_with_money(self, paused: _Paused) -> None:
        """Send the withheld message, after a charge if it would be refused for lack of money."""
        if self._short_of_money(paused.command):
            await charge(self._world, paused.command["user_id"], paused.command["amount"])
        await self._deliver(paused)

    # Scenarios ----------------------------------------------------------------------------------------------------

    async def _pay_again(self, paused: _Paused) -> None:
        """Wait until another process ends the payment; then pay again at the paused process when it wakes."""
        await self._deliver(paused)
        await self._until(lambda: self._live(paused.order_id) is None)
        await charge(self._world, paused.command["user_id"], paused.command["amount"])
        self._world.wake(paused.process)
        replica = next((replica for replica in self._replicas if replica.actor is paused.process), None)
        if replica is None or replica.lease is None:
            return
        deadline = self._world.loop.time() + SCENARIO_SECONDS
        # A process begins no payment without a lease.
        while not replica.lease.valid and self._world.loop.time() < deadline:  # noqa: ASYNC110 - no signal exists for it
            await asyncio.sleep(POLL_SECONDS)
        _ = replica.call(lambda checkout: checkout.pay(OrderId(paused.order_id), None))
        await self._until(lambda: self._live(paused.order_id) is not None)

    async def _undo_partly(self, paused: _Paused) -> None:
        """Force the saga's compensation, and kill the process that runs it after the first undo."""
        await self._deliver_with_money(paused)
        await self._force(paused.order_id)
        await self._kill_owner_when(paused, lambda _: self._undoing(paused.order_id))
        await self._wake_as_owner(paused)

    async def _get_stuck(self, paused: _Paused) -> None:
        """Force the saga's compensation while the balance service is unreachable; kill its process when it is stuck."""
        await self._deliver_with_money(paused)
        self._network.closed.add(Participant.BALANCE.value)
        await self._force(paused.order_id)
        # With a missing guard, a stuck saga may run forwards again.
        await self._kill_owner_when(paused, lambda saga: saga["stuck"] or saga["status"] == "RUNNING")
        self._network.closed.clear()
        await self._wake_as_owner(paused)

    async def _arrive_late(self, paused: _Paused) -> None:
        """Force the saga's compensation, and deliver the withheld message after the saga has ended."""
        await self._force(paused.order_id)
        await self._until(lambda: self._live(paused.order_id) is None)
        await self._deliver(paused)

    async def _force(self, order_id: UUID) -> None:
        """Force the saga of an order as an operator does, who tries again after a failure."""
        pool, who = LinkedPool(self._world, self._world.orders), acts.Who("operator", "because")
        while (saga := self._live(order_id)) is not None and saga["status"] == "RUNNING":
            try:
                await acts.force(pool, saga["saga_id"], who)
            except (Refusal, Unavailable):
                self._world.note("operator refused")

    async def _kill_owner_when(self, paused: _Paused, reached: Callable[[Row], object]) -> None:
        """Kill the other process that owns the saga after the commit by which the saga has `reached` a state."""

        def kill() -> bool:
            saga = self._live(paused.order_id)
            if saga is None or not reached(saga):
                return saga is None
            owner = next((replica for replica in self._replicas if replica.process_id == saga["owner"]), None)
            if owner is None or owner.actor is paused.process:
                return False
            self._world.note(f"kills {owner.actor.name}")
            owner.actor.alive = False
            return True

        await self._until(kill)

    async def _wake_as_owner(self, paused: _Paused) -> None:
        """Wake the process before the lease of the killed one ends, and wait until it has taken its saga back.

        Before that, the owner guard stops the stale runner. After it, the guard on the saga's status is the only one.
        """
        orders = self._world.orders
        saga = self._live(paused.order_id)
        lease = orders.processes.rows.get(saga["owner"]) if saga is not None else None
        if lease is not None:
            left = (lease["lease_until"] - orders.clock()).total_seconds()
            await asyncio.sleep(max(left, 0.0) * self._world.rng.random())
        self._world.wake(paused.process)
        others = [replica.actor for replica in self._replicas if replica.actor is not paused.process]
        for actor in others:
            if actor.frozen is None:
                self._world.loop.freeze(actor)  # else they may take the saga first
        own = [replica.process_id for replica in self._replicas if replica.actor is paused.process]

        def owns() -> bool:
            saga = self._live(paused.order_id)
            return saga is None or saga["owner"] in own

        await self._until(owns)
        for actor in others:
            self._world.wake(actor)

    def _live(self, order_id: UUID) -> Row | None:
        return next((saga for saga in self._world.orders.live() if saga["order_id"] == order_id), None)

    def _undoing(self, order_id: UUID) -> bool:
        gates = [database.gates.get(order_id) for database in self._world.participants.values()]
        return any(gate is not None and gate["closed"] for gate in gates)

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait until a commit makes `reached` true, at most for SCENARIO_SECONDS."""
        done = asyncio.Event()

        def look() -> None:
            if not done.is_set() and reached():
                done.set()

        look()
        self._world.after_commit = look
        try:
            async with asyncio.timeout(SCENARIO_SECONDS):
                await done.wait()
        except TimeoutError:
            self._world.note("stale runner waits no longer")
        finally:
            self._world.after_commit = None
