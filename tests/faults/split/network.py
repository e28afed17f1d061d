"""The network between the two order processes and the participants of both primaries; it stops a saga at its point."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from services.order.saga import Participant
from shared.participant.routes import UNKNOWN
from shared.process import trace
from tests.faults.matrix.processes import BACKOFF_FACTOR
from tests.faults.split.cells import Cell, Moment, Place, Point
from tests.infrastructure.in_process_participants import Answer, InProcessParticipant

Outcome = Mapping[str, Any]


@dataclass(slots=True)
class Gate:
    """A stop for A's saga. `reached` is set when it stands there; `went_on` when it has left; `reply` is delayed."""

    cell: Cell
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    went_on: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Outcome | None = None


class Network:
    """Delivers commands. `split`: the former primary acknowledges nothing.

    `at_former` says whether a participant of `old` is connected to the former primary. When that one stops, they
    connect to the new one and answer from there, maybe before the test knows that it has stopped.
    """

    def __init__(
        self, old: Mapping[Participant, InProcessParticipant], at_former: Callable[[Participant], bool]
    ) -> None:
        self.participants: dict[Place, Mapping[Participant, InProcessParticipant]] = {Place.OLD: old}
        self._at_former = at_former
        self.gates: dict[UUID, Gate] = {}
        self.opened = {moment: asyncio.Event() for moment in Moment}
        self.split = False
        self.fenced = 0  # commands of A's that came too late
        self.told: list[str] = []  # answers of participants at the former primary while the view was split
        self._sent: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def sleep(self, seconds: float) -> None:
        """Wait before a retry of A's, or for the moment at which its saga goes on."""
        order_id = (trace.subject.get() or {}).get("order_id")
        gate = self.gates.get(order_id) if isinstance(order_id, UUID) else None
        if gate is not None and gate.reached.is_set() and not gate.went_on.is_set():
            await self.opened[gate.cell.moment].wait()
            gate.went_on.set()
        else:
            await asyncio.sleep(seconds * BACKOFF_FACTOR)

    async def from_a(self, service: Participant, body: bytes) -> Answer:
        """Deliver a body of A's, command by command: each is at its own point."""
        commands = orjson.loads(body)["commands"]
        outcomes = await asyncio.gather(*(self._one(service, command) for command in commands))
        return 200, orjson.dumps({"outcomes": outcomes})

    async def from_b(self, service: Participant, body: bytes) -> Answer:
        """Deliver a body of B's."""
        return await self.participants[Place.NEW][service].answer(body)

    async def _one(self, service: Participant, command: Mapping[str, Any]) -> Outcome:
        gate = self.gates.get(UUID(command["order_id"]))
        if gate is None or gate.cell.command != command["type"] or gate.went_on.is_set():
            return await self._deliver(service, command, gate)
        if gate.reply is None and gate.cell.point is Point.APPLIED:
            gate.reply = await self._deliver(service, command, gate)
        gate.reached.set()
        return UNKNOWN

    async def _deliver(self, service: Participant, command: Mapping[str, Any], gate: Gate | None) -> Outcome:
        if gate is not None and gate.reply is not None and gate.cell.command == command["type"]:
            return gate.reply  # it arrives now
        if not self.split:
            return await self._answer(Place.OLD, service, command)
        if gate is not None and gate.cell.place is Place.NEW and Place.NEW in self.participants:
            outcome = await self._answer(Place.NEW, service, command)
            self.fenced += outcome.get("problem", {}).get("type") == "/problems/fenced"
            return outcome
        # It waits in the participant for an acknowledgement, and the call's time is over.
        key = (command["order_id"], command["type"])
        if key not in self._sent or self._sent[key].done():
            self._sent[key] = asyncio.create_task(self._wait(service, command))
        return UNKNOWN

    async def _answer(self, place: Place, service: Participant, command: Mapping[str, Any]) -> Outcome:
        status, body = await self.participants[place][service].answer(orjson.dumps({"commands": [command]}))
        outcome: Outcome = orjson.loads(body)["outcomes"][0] if status == 200 else UNKNOWN
        return outcome

    async def _wait(self, service: Participant, command: Mapping[str, Any]) -> None:
        outcome = await self._answer(Place.OLD, service, command)
        if self.split and outcome != UNKNOWN and self._at_former(service):
            self.told.append(f"{service}: {command['type']} {outcome}")

    async def close(self) -> None:
        """End the calls that still wait."""
        for task in self._sent.values():
            task.cancel()
        await asyncio.gather(*self._sent.values(), return_exceptions=True)
