"""The network between order processes and participants; it injects one fault at one point of an order's command."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import orjson

from services.order.saga import Participant
from tests.faults.matrix.cells import Cell, Fault, Point
from tests.infrastructure.in_process_participants import Answer, InProcessParticipant


@dataclass(slots=True)
class Trap:
    """A fault for an order's command. `struck` is set when it has happened; `late` has the bodies still in transit."""

    cell: Cell
    struck: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    late: list[tuple[Participant, bytes]] = field(default_factory=list)
    # From here on, the fault affects the next commit of the saga.
    commit: bool = False


class Network:
    """Delivers bodies to the participants."""

    def __init__(self, participants: Mapping[Participant, InProcessParticipant]) -> None:
        self.participants = participants
        self.traps: dict[UUID, Trap] = {}

    async def carry(self, place: Participant, body: bytes) -> Answer:
        """Deliver a body, unless a trap catches it. Raises the fault's error."""
        for command in orjson.loads(body)["commands"]:
            trap = self.traps.get(UUID(command["order_id"]))
            if trap is not None and not trap.struck.done() and command["type"] == trap.cell.command:
                return await self._strike(trap, place, body)
        return await self.participants[place].answer(body)

    async def _strike(self, trap: Trap, place: Participant, body: bytes) -> Answer:
        point = trap.cell.point
        if point is Point.NOT_RECORDED:
            trap.commit = True
            return await self.participants[place].answer(body)
        if point is Point.LATE:
            trap.late.append((place, body))
        elif point is Point.DUPLICATE:
            await asyncio.gather(self.participants[place].answer(body), self.participants[place].answer(body))
        elif point is Point.REPLY_LOST:
            await self.participants[place].answer(body)
        trap.struck.set_result(None)
        return await fail(trap.cell.fault)

    async def deliver_late(self, trap: Trap) -> list[Answer]:
        """Deliver the bodies that are still in transit."""
        return [await self.participants[place].answer(body) for place, body in trap.late]


async def fail(fault: Fault) -> Answer:
    """Fail as the fault does. A process that is killed here never continues."""
    if fault is Fault.ERROR:
        return 503, b""
    if fault is Fault.TIMEOUT:
        raise TimeoutError
    if fault is Fault.RESET:
        raise ConnectionResetError
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    return await never
