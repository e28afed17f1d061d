"""The cells of a split view, generated from the crash matrix's scenarios: so a new step or kind of saga has cells too.

Process A stays on the former primary. Process B takes A's sagas over on the new one.
"""

import itertools
from dataclasses import dataclass
from enum import StrEnum

from services.order.domain import OrderStatus
from services.order.saga import Kind
from tests.faults.matrix.cells import CLOSED_END, Course, Scenario, scenarios


class Point(StrEnum):
    """The point of a command's life at which A's saga stands when the view splits."""

    BEFORE = "before send"
    APPLIED = "applied but the reply delayed"


class Moment(StrEnum):
    """When A continues the saga."""

    UNACKNOWLEDGED = "before the promotion, but nobody acknowledges"
    BOTH = "beside B"
    LATE = "after B has ended it"


class Place(StrEnum):
    """The primary of the participants that A's commands reach while the view is split."""

    OLD = "former"
    NEW = "new"


class Act(StrEnum):
    """What happens to the order on the new primary."""

    TAKEN = "taken over"
    CANCELLED = "taken over and cancelled"
    FORCED = "forced by an operator"


@dataclass(frozen=True, slots=True)
class Cell:
    """One command of a scenario, with what A and B do."""

    scenario: Scenario
    command: str
    point: Point
    moment: Moment
    place: Place
    act: Act

    def __str__(self) -> str:
        how = f"A goes on {self.moment}, to the {self.place} participants; {self.act}"
        return f"{self.scenario}: {self.command}, {self.point}, {how}"

    @property
    def end(self) -> OrderStatus:
        """Return the one correct status of the order when all is over."""
        end = self.scenario.end
        if self.act is Act.CANCELLED:
            return CLOSED_END[Course.PAID if end is OrderStatus.PAID else Course.PENDING]
        if self.act is Act.FORCED:
            return OrderStatus.CANCELLED if self.scenario.kind is Kind.PAY else OrderStatus.REJECTED
        return end


def cells() -> list[Cell]:
    """Return all cells."""
    return [
        Cell(scenario, command, point, moment, place, act)
        for scenario in scenarios()
        if scenario.course is not Course.FORCED  # an act here
        for command, point, moment, place in itertools.product(scenario.commands, Point, Moment, Place)
        for act in _acts(scenario, moment)
    ]


def _acts(scenario: Scenario, moment: Moment) -> list[Act]:
    if scenario.course is not Course.FORWARD:
        return [Act.TAKEN]
    # A saga that goes on before the promotion may have ended: then nobody can force it.
    return [Act.TAKEN, Act.CANCELLED] if moment is Moment.UNACKNOWLEDGED else list(Act)
