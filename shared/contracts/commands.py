"""The participant protocol's wire models, version 1: `POST /internal/v1/commands`.

The order service sends commands, and each participant validates those that it knows. Ids and amounts follow the public
contract. `attempt` is 0, except for debits: there it is the number of the payment.

The sender may be newer or older than the receiver. So unknown fields are ignored, a field that is added has a default,
and a command of an unknown kind gets the outcome `unknown`, which the sender repeats until a receiver knows the kind.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args
from uuid import UUID

from pydantic import AfterValidator, Field

from shared.contracts.types import Amount, Id, InternalWire
from shared.notation import Uuid

COMMANDS_PATH = "/internal/v1/commands"
OUTCOMES_PATH = "/internal/v1/outcomes/{order_id:uuid}"
# The maximum of one call: the sender never exceeds it and the receiver refuses more.
COMMANDS_MAX = 256
# For 256 holds of 50 lines with ids of 128 characters, all escaped in JSON, and a reserve.
COMMANDS_BODY_MAX_BYTES = 16 * 1024 * 1024

Attempt = Annotated[int, Field(ge=0, le=2**31 - 1)]
OnlyAttempt = Annotated[int, Field(ge=0, le=0)]
LINES_MAX = 50
QUANTITY_MAX = 1000


class _Line(Protocol):
    @property
    def product_id(self) -> str: ...


L = TypeVar("L", bound=_Line)


def _distinct(lines: list[L]) -> list[L]:
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("must name each product once")
    return lines


# The lines of an order, as clients send them and as a hold has them.
Lines = Annotated[list[L], Field(min_length=1, max_length=LINES_MAX), AfterValidator(_distinct)]
Units = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]


class HoldLine(InternalWire):
    """Units of one product."""

    product_id: Id
    quantity: Units


class _Command(InternalWire):
    """What every command has; `attempt` is 0 except for debits."""

    order_id: Uuid
    attempt: OnlyAttempt = 0


class HoldStock(_Command):
    """Hold all lines or none; the result prices them: `{"lines": [{product_id, name, quantity, unit_price}]}`."""

    type: Literal["hold_stock"]
    lines: Lines[HoldLine]


class RestoreStock(_Command):
    """Release everything that the order holds, and close the order here.

    `product_ids`: what it may hold, by which one of several product shards sees that it is not meant.
    """

    type: Literal["restore_stock"]
    product_ids: tuple[Id, ...] = ()


class ReserveCoupon(_Command):
    """Set a coupon aside for an order that is paid later; the result is `{"discount_amount"}`."""

    type: Literal["reserve_coupon"]
    coupon_id: Id
    user_id: Id
    subtotal_amount: Amount


class RedeemCoupon(_Command):
    """Use a coupon up. `reserved`: the order is paid later, so the coupon must be RESERVED by it and nothing
    else is asked again; otherwise it must be AVAILABLE and valid now. The result is `{"discount_amount"}`."""

    type: Literal["redeem_coupon"]
    coupon_id: Id
    user_id: Id
    subtotal_amount: Amount
    reserved: bool


class ReleaseCoupon(_Command):
    """Make the order's coupon AVAILABLE again, and close the order here."""

    type: Literal["release_coupon"]


class Debit(_Command):
    """Take money from the user's account; the result is `{"balance"}` after it."""

    type: Literal["debit"]
    attempt: Attempt
    user_id: Id
    amount: Amount


class Refund(_Command):
    """Refund all that the order paid, in any attempt, and close the order here."""

    type: Literal["refund"]


KINDS = frozenset(
    kind for command in _Command.__subclasses__() for kind in get_args(command.model_fields["type"].annotation)
)


def _unknown(kind: str) -> str:
    if kind in KINDS:
        raise ValueError("a command of this kind has other fields, or another participant")
    return kind


class UnknownCommand(InternalWire):
    """A command of a later version: it must not make the others of its batch fail."""

    type: Annotated[str, AfterValidator(_unknown), Field(json_schema_extra={"not": {"enum": sorted(KINDS)}})]


C = TypeVar("C")
# From left to right: a command of a known kind is not compared with anything else.
Batch = Annotated[
    list[Annotated[Annotated[C, Field(discriminator="type")] | UnknownCommand, Field(union_mode="left_to_right")]],
    Field(min_length=1, max_length=COMMANDS_MAX),
]


class ProductCommands(InternalWire):
    """A batch for the product service."""

    commands: Batch[HoldStock | RestoreStock]


class CouponCommands(InternalWire):
    """A batch for the coupon service."""

    commands: Batch[ReserveCoupon | RedeemCoupon | ReleaseCoupon]


class BalanceCommands(InternalWire):
    """A batch for the balance service."""

    commands: Batch[Debit | Refund]


class WireOutcome(InternalWire):
    """What became of a command; `unknown` means: ask again."""

    outcome: Literal["applied", "refused", "unknown"]
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Outcomes(InternalWire):
    """One outcome a command, in the commands' order."""

    outcomes: list[WireOutcome]


class StoredOutcome(InternalWire):
    """What a participant answered to a command and will answer again."""

    type: str
    attempt: int
    outcome: Literal["applied", "refused"]
    decided_at: datetime
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class OrderOutcomes(InternalWire):
    """What a participant knows of an order; of one it never saw: not closed, and no outcomes."""

    order_id: UUID
    closed: bool
    outcomes: list[StoredOutcome]
