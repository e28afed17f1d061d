"""The checker of the fault tests finds every kind of contradiction, and reports none for correct books."""

import json
from collections import defaultdict
from typing import Any
from uuid import UUID

import pytest

from tests.faults.checker import contradictions
from tests.faults.customers import Purchase, Reply
from tests.faults.schedule import Faults
from tests.faults.test_faults import missed
from tests.infrastructure.services import Answer

ORDER_ID = UUID("01a1fd7c-80c3-7e55-848d-66387a1dce28")
Row = dict[str, Any]


def an_order(status: str, **fields: Any) -> Row:
    """Return the order's row."""
    lines = json.dumps([{"product_id": "cup", "quantity": 3}])
    row = {"order_id": ORDER_ID, "user_id": "ann", "status": status, "lines": lines, "reason": None, "debits": 0}
    return {**row, "event_sequence": 1, **fields}


def reply(operation: str, answered: int, key: str | None = "k", /, **body: Any) -> Reply:
    """Return a reply with an order, or with a problem if `type` names one."""
    if answered < 400:
        body = {"order_id": str(ORDER_ID), **body}
    return Reply(operation, key, Answer(answered, body, "application/json"))


def a_purchase(*history: Reply, payment: str = "now") -> Purchase:
    return Purchase("a flow", "ann", 3, {"payment": payment}, str(ORDER_ID), list(history))


def found(purchase: Purchase, *orders: Row) -> list[str]:
    return contradictions([purchase], orders)


def problem(slug: str, **more: Any) -> dict[str, Any]:
    return {"type": f"/problems/{slug}", **more}


PLACED_LATER = reply("place", 201, status="PENDING_PAYMENT")
FINE = {
    "paid at once": (a_purchase(reply("place", 201, status="PAID")), [an_order("PAID", debits=1)]),
    "no answer and no order": (a_purchase(Reply("place", "k", None)), []),
    "no answer and an order": (a_purchase(Reply("place", "k", None)), [an_order("PAID", debits=1)]),
    "refused and rejected": (
        a_purchase(reply("place", 400, order_id=str(ORDER_ID), **problem("out-of-stock"))),
        [an_order("REJECTED", reason="out-of-stock", event_sequence=0)],
    ),
    "expired": (
        a_purchase(PLACED_LATER, reply("payment", 409, "p", **problem("order-expired")), payment="later"),
        [an_order("EXPIRED")],
    ),
    "paid and refunded": (
        a_purchase(
            PLACED_LATER,
            reply("payment", 200, "p", status="PAID"),
            reply("cancel", 200, "c", status="REFUNDED"),
            payment="later",
        ),
        [an_order("REFUNDED", debits=1)],
    ),
    "503, and begun with a key": (
        a_purchase(reply("place", 503, **problem("unavailable"))),
        [an_order("PAID", debits=1)],
    ),
}
WRONG = {
    "accepted, and no order": (a_purchase(reply("place", 201, status="PAID")), []),
    "accepted, and expired": (a_purchase(reply("place", 201, status="PAID")), [an_order("EXPIRED")]),
    "accepted, and cancelled by no customer": (a_purchase(PLACED_LATER, payment="later"), [an_order("CANCELLED")]),
    "refused, and paid": (
        a_purchase(reply("place", 400, order_id=str(ORDER_ID), **problem("out-of-stock"))),
        [an_order("PAID", debits=1)],
    ),
    "refused for another reason": (
        a_purchase(reply("place", 400, order_id=str(ORDER_ID), **problem("out-of-stock"))),
        [an_order("REJECTED", reason="invalid-coupon", event_sequence=0)],
    ),
    "refused, and an event on the topic": (
        a_purchase(reply("place", 400, order_id=str(ORDER_ID), **problem("out-of-stock"))),
        [an_order("REJECTED", reason="out-of-stock")],
    ),
    "paid, and expired": (
        a_purchase(PLACED_LATER, reply("payment", 200, "p", status="PAID"), payment="later"),
        [an_order("EXPIRED")],
    ),
    "expired, and debited": (
        a_purchase(PLACED_LATER, reply("payment", 409, "p", **problem("order-expired")), payment="later"),
        [an_order("PAID", debits=1)],
    ),
    "no money, and debited": (
        a_purchase(PLACED_LATER, reply("payment", 400, "p", **problem("insufficient-balance")), payment="later"),
        [an_order("EXPIRED", debits=1)],
    ),
    "refunded, and paid": (
        a_purchase(reply("place", 201, status="PAID"), reply("cancel", 200, "c", status="REFUNDED")),
        [an_order("PAID", debits=1)],
    ),
    "debited twice": (a_purchase(reply("place", 201, status="PAID")), [an_order("PAID", debits=2)]),
    "one purchase, two orders": (
        a_purchase(reply("place", 201, status="PAID")),
        [an_order("PAID"), an_order("PAID", order_id=UUID(int=7))],
    ),
    "another order than in the reply": (
        a_purchase(reply("place", 201, status="PAID")),
        [an_order("PAID", order_id=UUID(int=7))],
    ),
    "one key, two answers": (
        a_purchase(reply("place", 201, status="PAID"), reply("place", 201, status="PAID", total_amount=7)),
        [an_order("PAID", debits=1)],
    ),
    "503, and begun without a key": (
        a_purchase(reply("place", 503, None, **problem("unavailable"))),
        [an_order("PAID", debits=1)],
    ),
    "an order that no customer placed": (
        a_purchase(reply("place", 201, status="PAID")),
        [an_order("PAID"), an_order("PAID", user_id="bob")],
    ),
}


@pytest.mark.parametrize(("purchase", "orders"), FINE.values(), ids=FINE)
def test_answer_that_matches_the_order_is_accepted(purchase: Purchase, orders: list[Row]) -> None:
    assert found(purchase, *orders) == []


@pytest.mark.parametrize(("purchase", "orders"), WRONG.values(), ids=WRONG)
def test_answer_that_contradicts_the_order_is_reported(purchase: Purchase, orders: list[Row]) -> None:
    assert found(purchase, *orders)


def test_run_without_an_effective_fault_fails() -> None:
    faults = Faults.__new__(Faults)
    for hits, wrong in [({}, 1), ({"kill": [0, 0]}, 1), ({"kill": [0, 3]}, 0), ({"kill": [3], "cut": [0] * 5}, 1)]:
        faults.hits = defaultdict(list, hits)
        assert len(list(missed(faults))) == wrong
