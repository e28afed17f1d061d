"""Participants' answers to the audit, version 1: what they hold for each order, and the checks of their own books.

Sums can exceed 64 bits. An integer that does is sent as a string of its digits, and read as an integer again.
"""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from shared.contracts.types import InternalQuery, InternalWire
from shared.encoding import Integer, from_json
from shared.notation import Timestamp, Uuid
from shared.slots import Ownership, parse_slots

HOLDS_PATH = "/internal/v1/holds"
BOOKS_PATH = "/internal/v1/books"
BOOKS_SECONDS = 30.0  # a participant's own checks read all of its books
HOLDS_MAX = 1000  # orders a page: a fiftieth of a second of Postgres' time


# Slots without ranges would take five times as many. Who has such slots asks for everybody's holds.
SLOTS_TEXT_MAX = 4000
# For readers of the OpenAPI document; parse_slots decides.
SLOTS_PATTERN = "^(([0-9]{1,4}(-[0-9]{1,4})?|older)( |$))*$"


def _slots(text: str | None) -> str | None:
    parse_slots((text or "").split())
    return text


class HoldsQuery(InternalQuery):
    """A page of orders in order of id: those after `after`, or just `order_id`."""

    after: Uuid = UUID(int=0)
    order_id: Uuid | None = None
    limit: Annotated[int, Field(ge=1, le=HOLDS_MAX)] = HOLDS_MAX
    # Only of the orders of a cell: its CELL_SLOTS and CELL_SLOTS_SINCE. A participant may ignore both.
    slots: Annotated[
        str | None,
        Field(max_length=SLOTS_TEXT_MAX, json_schema_extra={"pattern": SLOTS_PATTERN}),
        AfterValidator(_slots),
    ] = None
    slots_since: Timestamp | None = None

    @property
    def ownership(self) -> Ownership | None:
        """Return whose orders are asked for, None for everybody's."""
        return None if self.slots is None else Ownership.of(self.slots.split(), self.slots_since)

    def bounds(self) -> tuple[UUID, UUID]:
        """Return the id that the page begins after, and the last that it may reach."""
        if self.order_id is None:
            return self.after, UUID(int=2**128 - 1)
        return UUID(int=max(0, self.order_id.int - 1)), self.order_id


class OrderHolds(InternalWire):
    """What is held for one order now; what was given back is not listed.

    product: units by product id. coupon: RESERVED or REDEEMED by coupon id. balance: amount by user id.
    """

    order_id: UUID
    holds: dict[str, int | Annotated[str, AfterValidator(from_json)]]


class HoldsPage(InternalWire):
    """A page. If `until` is there, the page has all orders up to it, those of other cells left out.

    Otherwise it has the orders of all cells, and fewer than `limit` means that there are no more.
    """

    items: list[OrderHolds]
    until: UUID | None = None


class BookCheck(InternalWire):
    """A rule of a participant's own books, how many rows break it, and some of them."""

    name: str
    violations: int
    examples: list[dict[str, Any]]


class Books(InternalWire):
    """A participant's own checks and its totals."""

    checks: list[BookCheck]
    totals: dict[str, Integer]
