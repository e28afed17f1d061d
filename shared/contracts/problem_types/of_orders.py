"""Why an order is refused, or can't be paid or cancelled."""

from shared.contracts.problem_types.problem_type import ProblemType, Retry

_UNDONE = "Nothing is held or debited for the order any more. If it is still wanted, place a new order with a new key."
_FORCED = "an operator had the order undone while it was being placed or paid"
_REPAIRED = "a participant's books were repaired by hand while the order was in flight; the order is undone"

OF_ORDERS = (
    ProblemType(
        "product-not-found",
        404,
        Retry.LATER,
        "no such product",
        "Check the ids in `product_ids`. `GET /v1/products` lists all products.",
        "`product_ids`, `order_id` (of an order only)",
    ),
    ProblemType(
        "out-of-stock",
        400,
        Retry.LATER,
        "fewer free units than asked for",
        "Ask for fewer units, leave out the products in `product_ids`, or wait until units have been put in.",
        "`product_ids`, `order_id` (of an order only)",
    ),
    ProblemType(
        "invalid-coupon",
        400,
        Retry.LATER,
        "the first of `not-found`, `not-owner`, `expired`, `already-used`, `reserved`, `below-minimum` that holds",
        "Read `reason`. Place the order without the coupon or with another one. A coupon that is `reserved` is free "
        "again if the order that has it isn't paid. With `below-minimum`, the subtotal must be at least "
        "`min_subtotal`.",
        "`reason`, `order_id`; `min_subtotal` with `below-minimum`",
    ),
    ProblemType(
        "insufficient-balance",
        400,
        Retry.LATER,
        "the balance is lower than the amount",
        "Charge the account with at least `required` minus `available`. Then pay the order, or place it again if it "
        "was to be paid at once.",
        "`required`, `available`, `order_id`",
    ),
    ProblemType(
        "amount-too-large",
        400,
        Retry.NO,
        "the subtotal exceeds 2^63-1",
        "Order fewer units, in several orders if necessary.",
        "`order_id`",
    ),
    ProblemType(
        "order-not-found",
        404,
        Retry.NO,
        "no such order",
        "Check the id. The order of another user gets the same answer, and so does a rejected order that has been "
        "removed.",
    ),
    ProblemType(
        "order-expired",
        409,
        Retry.NO,
        "the order was not paid in time",
        "Nothing was debited. If the order is still wanted, place a new one with a new key.",
        "`order_id`",
    ),
    ProblemType(
        "order-not-payable",
        409,
        Retry.LATER,
        "the order is not waiting for a payment",
        "Read the order. While it is `PLACING`, wait until it is `PENDING_PAYMENT`. If it is rejected, cancelled, "
        "refunded or being closed, it can't be paid any more: place a new one.",
        "`order_id`",
    ),
    ProblemType(
        "order-not-cancellable",
        409,
        Retry.LATER,
        "the order can't be cancelled in its current status",
        "Read the order. While it is `PLACING` or `PAYING`, wait until this has ended. An order that is rejected or "
        "expired needs no cancellation: nothing is held for it.",
        "`order_id`",
    ),
    ProblemType("undone-by-operator", 409, Retry.NO, _FORCED, _UNDONE, "`order_id`"),
    ProblemType("order-withdrawn", 409, Retry.NO, _FORCED, _UNDONE, "`order_id`"),
    ProblemType("fenced", 409, Retry.NO, _REPAIRED, _UNDONE, "`order_id`"),
    ProblemType("coupon-not-reserved", 409, Retry.NO, _REPAIRED, _UNDONE, "`order_id`"),
    ProblemType("order-has-coupon", 409, Retry.NO, _REPAIRED, _UNDONE, "`order_id`"),
)
