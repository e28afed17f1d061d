"""Blocks many sagas at the same time, each at a step that the test chooses."""

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
    """The points of a block: before a command is sent, or after it was executed and before its answer."""

    command: str
    sent: bool


@dataclass
class Holder:
    """The point at which each order is blocked. A placement takes the point that was set for the next order."""

    next: Point | None = None
    held: dict[str, Point | None] = field(default_factory=dict)

    def point_of(self, order_id: str) -> Point | None:
        """Return the point at which this order is blocked."""
        if order_id not in self.held:
            self.held[order_id], self.next = self.next, None
        return self.held[order_id]

    def let_go(self) -> None:
        """End all blocks."""
        self.held = dict.fromkeys(self.held)


@contextmanager
def holding() -> Iterator[Holder]:
    """Put a holder between the runners and the participants."""
    holder = Holder()
    real = Participants.send

    async def send(self: Participants, command: Command) -> Outcome:
        point = holder.point_of(command.order_id)
        if point == Point(command.type, sent=False):
            raise Unavailable("blocked before it was sent")
        outcome = await real(self, command)
        if point == Point(command.type, sent=True):
            raise Unavailable("blocked after it was executed")
        return outcome

    with patch.object(Participants, "send", send):
        yield holder
