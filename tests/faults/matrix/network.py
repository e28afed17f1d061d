"""The way from order processes to the participants: strikes one command of an order, at one point, once."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import orjson

from services.order.saga import Participant
from tests.faults.matrix.cells import Cell, Fault, Point
from tests.infrastructure.desks import Answer, Desk


@dataclass(slots=True)
class Trap:
    """What strikes an order's command. `struck` ends when it has; `late` are the bodies that are still on their way."""

    cell: Cell
    struck: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    late: list[tuple[Participant, bytes]] = field(default_factory=list)
    # From here on the next commit of the saga is what the fault strikes.
    commit: bool = False


class Network:
    """Carries bodies to the desks."""

    def __init__(self, desks: Mapping[Participant, Desk]) -> None:
        self.desks = desks
        self.traps: dict[UUID, Trap] = {}

    async def carry(self, place: Participant, body: bytes) -> Answer:
        """Carry a body, unless it walks into a trap. Raises what a fault raises."""
        for command in orjson.loads(body)["commands"]:
            trap = self.traps.get(UUID(command["order_id"]))
            if trap is not None and not trap.struck.done() and command["type"] == trap.cell.command:
                return await self._strike(trap, place, body)
        return await self.desks[place].answer(body)

    async def _strike(self, trap: Trap, place: Participant, body: bytes) -> Answer:
        point = trap.cell.point
        if point is Point.NOT_RECORDED:
            trap.commit = True
            return await self.desks[place].answer(body)
        if point is Point.LATE:
            trap.late.append((place, body))
        elif point is Point.DUPLICATE:
            await asyncio.gather(self.desks[place].answer(body), self.desks[place].answer(body))
        elif point is Point.REPLY_LOST:
            await self.desks[place].answer(body)
        trap.struck.set_result(None)
        return await fail(trap.cell.fault)

    async def deliver_late(self, trap: Trap) -> list[Answer]:
        """Have what is still on its way arrive."""
        return [await self.desks[place].answer(body) for place, body in trap.late]


async def fail(fault: Fault) -> Answer:
    """Fail as the fault does. A process that is killed here never gets any further."""
    if fault is Fault.ERROR:
        return 503, b""
    if fault is Fault.TIMEOUT:
        raise TimeoutError
    if fault is Fault.RESET:
        raise ConnectionResetError
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    return await never


class NetworkChannel:
    """A process' way to one participant, for services.order.engine.participants."""

    def __init__(self, network: Network, place: str) -> None:
        self._network = network
        self._place = Participant(place)

    async def __aenter__(self) -> "NetworkChannel":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def post(self, body: bytes, _headers: Mapping[str, str]) -> Answer:
        """Send a batch; return the answer's status and body."""
        return await self._network.carry(self._place, body)
