"""Holds sagas up at a step of the test's choosing, many at once, each at its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from services.order.engine.participants import Participants
from services.order.saga import Command
from shared.participant.protocol import Outcome
from shared.refusals import Unavailable


@dataclass(frozen=True, slots=True)
class Point:
    """Before a command is sent, or after it was carried out and before anybody heard of it."""

    command: str
    sent: bool


@dataclass
class Holder:
    """Which order is held up where. A placement takes the point that was set for the next order."""

    next: Point | None = None
    held: dict[str, Point | None] = field(default_factory=dict)

    def point_of(self, order_id: str) -> Point | None:
        """Where this order is held up."""
        if order_id not in self.held:
            self.held[order_id], self.next = self.next, None
        return self.held[order_id]

    def let_go(self) -> None:
        """Hold nothing up any more."""
        self.held = dict.fromkeys(self.held)


@contextmanager
def holding() -> Iterator[Holder]:
    """Put a holder between the runners and the participants."""
    holder = Holder()
    real = Participants.send

    async def send(self: Participants, command: Command) -> Outcome:
        point = holder.point_of(command.order_id)
        if point == Point(command.type, sent=False):
            raise Unavailable("held up before it was sent")
        outcome = await real(self, command)
        if point == Point(command.type, sent=True):
            raise Unavailable("held up after it was carried out")
        return outcome

    with patch.object(Participants, "send", send):
        yield holder
