"""The participant protocol's wire models, version 1: `POST /internal/v1/commands`.

The order service sends, each participant validates the commands it knows. Ids and amounts follow the public
contract; `attempt` is 0 but for debits, where it is the number of the payment.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from shared.contracts.types import Amount, Id, Wire
from shared.notation import Uuid

COMMANDS_PATH = "/internal/v1/commands"
OUTCOMES_PATH = "/internal/v1/outcomes/{order_id:uuid}"
# What fits one call: the sender never exceeds it and the receiver refuses more.
COMMANDS_MAX = 256
# 256 holds of 50 lines with ids of 128 characters, JSON-escaped at the worst, and room to spare.
COMMANDS_BODY_MAX_BYTES = 16 * 1024 * 1024

Attempt = Annotated[int, Field(ge=0, le=2**31 - 1)]
OnlyAttempt = Annotated[int, Field(ge=0, le=0)]
LINES_MAX = 50
QUANTITY_MAX = 1000


class HoldLine(Wire):
    """Units of one product."""

    product_id: Id
    quantity: Annotated[int, Field(ge=1, le=QUANTITY_MAX)]


def _distinct(lines: list[HoldLine]) -> list[HoldLine]:
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("must name each product once")
    return lines


HoldLines = Annotated[list[HoldLine], Field(min_length=1, max_length=LINES_MAX), AfterValidator(_distinct)]


class HoldStock(Wire):
    """Hold all lines or none; the result prices them: `{"lines": [{product_id, name, quantity, unit_price}]}`."""

    type: Literal["hold_stock"]
    order_id: Uuid
    attempt: OnlyAttempt = 0
    lines: HoldLines


class RestoreStock(Wire):
    """Give back whatever the order holds, and close it here."""

    type: Literal["restore_stock"]
    order_id: Uuid
    attempt: OnlyAttempt = 0


class ReserveCoupon(Wire):
    """Set a coupon aside for an order that is paid later; the result is `{"discount_amount"}`."""

    type: Literal["reserve_coupon"]
    order_id: Uuid
    attempt: OnlyAttempt = 0
    coupon_id: Id
    user_id: Id
    subtotal_amount: Amount


class RedeemCoupon(Wire):
    """Use a coupon up. `reserved`: the order is paid later, so the coupon must be RESERVED by it and nothing
    else is asked again; otherwise it must be AVAILABLE and valid now. The result is `{"discount_amount"}`."""

    type: Literal["redeem_coupon"]
    order_id: Uuid
    attempt: OnlyAttempt = 0
    coupon_id: Id
    user_id: Id
    subtotal_amount: Amount
    reserved: bool


class ReleaseCoupon(Wire):
    """Make the order's coupon AVAILABLE again, and close the order here."""

    type: Literal["release_coupon"]
    order_id: Uuid
    attempt: OnlyAttempt = 0


class Debit(Wire):
    """Take money from the user's account; the result is `{"balance"}` after it."""

    type: Literal["debit"]
    order_id: Uuid
    attempt: Attempt
    user_id: Id
    amount: Amount


class Refund(Wire):
    """Give back whatever the order paid, whichever attempt it was, and close the order here."""

    type: Literal["refund"]
    order_id: Uuid
    attempt: OnlyAttempt = 0


class ProductCommands(Wire):
    """A batch for the product service."""

    commands: Annotated[
        list[Annotated[HoldStock | RestoreStock, Field(discriminator="type")]],
        Field(min_length=1, max_length=COMMANDS_MAX),
    ]


class CouponCommands(Wire):
    """A batch for the coupon service."""

    commands: Annotated[
        list[Annotated[ReserveCoupon | RedeemCoupon | ReleaseCoupon, Field(discriminator="type")]],
        Field(min_length=1, max_length=COMMANDS_MAX),
    ]


class BalanceCommands(Wire):
    """A batch for the balance service."""

    commands: Annotated[
        list[Annotated[Debit | Refund, Field(discriminator="type")]],
        Field(min_length=1, max_length=COMMANDS_MAX),
    ]


class WireOutcome(Wire):
    """What became of a command; `unknown` means: ask again."""

    outcome: Literal["applied", "refused", "unknown"]
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Outcomes(Wire):
    """One outcome a command, in the commands' order."""

    outcomes: list[WireOutcome]


class StoredOutcome(Wire):
    """What a participant answered to a command and will answer again."""

    type: str
    attempt: int
    outcome: Literal["applied", "refused"]
    decided_at: datetime
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class OrderOutcomes(Wire):
    """What a participant knows of an order; of one it never saw: not closed, and no outcomes."""

    order_id: UUID
    closed: bool
    outcomes: list[StoredOutcome]
