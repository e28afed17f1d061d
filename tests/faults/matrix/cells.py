"""The cells of the crash matrix, made from the saga's own table: a new step or kind of saga has its cells at once."""

from dataclasses import dataclass
from enum import StrEnum

from services.order.domain import OrderStatus
from services.order.saga import STEPS, UNDONE, Kind, Step


class Point(StrEnum):
    """Where in the life of a command the fault strikes."""

    BEFORE_SEND = "before send"
    REPLY_LOST = "applied but the reply lost"
    NOT_RECORDED = "reply seen but not recorded"
    DUPLICATE = "concurrent duplicate"
    LATE = "late command after its undo"


class Fault(StrEnum):
    """What strikes; where nothing is sent it strikes the commit instead."""

    KILLED = "process killed"
    TIMEOUT = "timeout"
    ERROR = "5xx"
    RESET = "connection reset"


class Way(StrEnum):
    """How a saga comes to send a command, and what becomes of it."""

    FORWARD = "forward"  # it does its steps
    REFUSED = "refused"  # its last step is refused, and the one who saw that undoes the others
    FORCED = "forced"  # an operator turns it round when all steps are done: everything is undone
    PENDING = "cancel of pending"
    PAID = "cancel of paid"
    EXPIRED = "expiry"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of saga on one of its ways, the commands it sends there, and the order's status in the end."""

    kind: Kind
    way: Way
    commands: tuple[str, ...]
    end: OrderStatus

    def __str__(self) -> str:
        return f"{self.kind} {self.way}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One command of a scenario, struck at a point by a fault."""

    scenario: Scenario
    command: str
    point: Point
    fault: Fault

    def __str__(self) -> str:
        return f"{self.scenario}: {self.command}, {self.point}, {self.fault}"


PLACES = (Kind.PLACE_NOW, Kind.PLACE_LATER)
FORWARD_END = {
    Kind.PLACE_NOW: OrderStatus.PAID,
    Kind.PLACE_LATER: OrderStatus.PENDING_PAYMENT,
    Kind.PAY: OrderStatus.PAID,
}
CLOSED_END = {
    Way.PENDING: OrderStatus.CANCELLED,
    Way.PAID: OrderStatus.REFUNDED,
    Way.EXPIRED: OrderStatus.EXPIRED,
}


def _undos(steps: tuple[Step, ...]) -> tuple[str, ...]:
    return tuple(step.undo for step in steps)


def scenarios() -> list[Scenario]:
    """Return every way of every kind of saga."""
    made: list[Scenario] = []
    for kind, end in FORWARD_END.items():
        made.append(Scenario(kind, Way.FORWARD, tuple(step.do for step in STEPS[kind]), end))
        forced = OrderStatus.REJECTED if kind in PLACES else OrderStatus.CANCELLED
        made.append(Scenario(kind, Way.FORCED, _undos(UNDONE[kind]), forced))
    refused = [Scenario(kind, Way.REFUSED, _undos(STEPS[kind][:-1]), OrderStatus.REJECTED) for kind in PLACES]
    closed = [Scenario(Kind.CLOSE, way, _undos(UNDONE[Kind.CLOSE]), end) for way, end in CLOSED_END.items()]
    return made + refused + closed


def cells(scenario: Scenario, point: Point) -> list[Cell]:
    """Return a scenario's cells at one point."""
    return [Cell(scenario, command, point, fault) for command in scenario.commands for fault in Fault]
