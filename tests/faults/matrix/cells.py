"""The cells of the crash matrix, generated from the saga's own table: so a new step or kind of saga has cells too."""

from dataclasses import dataclass
from enum import StrEnum

from services.order.domain import OrderStatus
from services.order.saga import STEPS, UNDONE, Kind, Step


class Point(StrEnum):
    """The point of a command's life at which the fault happens."""

    BEFORE_SEND = "before send"
    REPLY_LOST = "applied but the reply lost"
    NOT_RECORDED = "reply seen but not recorded"
    DUPLICATE = "concurrent duplicate"
    LATE = "late command after its undo"


class Fault(StrEnum):
    """The faults; where no command is sent, the fault affects the commit instead."""

    KILLED = "process killed"
    TIMEOUT = "timeout"
    ERROR = "5xx"
    RESET = "connection reset"


class Course(StrEnum):
    """The course of a saga: how it comes to send a command, and how it ends."""

    FORWARD = "forward"  # it does its steps
    REFUSED = "refused"  # its last step is refused, and the process that saw the refusal undoes the others
    FORCED = "forced"  # an operator forces it when all steps are done: everything is undone
    PENDING = "cancel of pending"
    PAID = "cancel of paid"
    EXPIRED = "expiry"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of saga on one of its courses, with the commands that it sends, and the order's final status."""

    kind: Kind
    course: Course
    commands: tuple[str, ...]
    end: OrderStatus

    def __str__(self) -> str:
        return f"{self.kind} {self.course}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One command of a scenario, with a fault at a point."""

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
    Course.PENDING: OrderStatus.CANCELLED,
    Course.PAID: OrderStatus.REFUNDED,
    Course.EXPIRED: OrderStatus.EXPIRED,
}


def _undos(steps: tuple[Step, ...]) -> tuple[str, ...]:
    return tuple(step.undo for step in steps)


def scenarios() -> list[Scenario]:
    """Return every course of every kind of saga."""
    made: list[Scenario] = []
    for kind, end in FORWARD_END.items():
        made.append(Scenario(kind, Course.FORWARD, tuple(step.do for step in STEPS[kind]), end))
        forced = OrderStatus.REJECTED if kind in PLACES else OrderStatus.CANCELLED
        made.append(Scenario(kind, Course.FORCED, _undos(UNDONE[kind]), forced))
    refused = [Scenario(kind, Course.REFUSED, _undos(STEPS[kind][:-1]), OrderStatus.REJECTED) for kind in PLACES]
    closed = [Scenario(Kind.CLOSE, course, _undos(UNDONE[Kind.CLOSE]), end) for course, end in CLOSED_END.items()]
    return made + refused + closed


def cells(scenario: Scenario, point: Point) -> list[Cell]:
    """Return a scenario's cells at one point."""
    return [Cell(scenario, command, point, fault) for command in scenario.commands for fault in Fault]
