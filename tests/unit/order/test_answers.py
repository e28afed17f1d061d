"""The answer to a client when a saga has ended, at the end or for a repeated key."""

import json
from dataclasses import replace
from typing import Any

import pytest

from services.order.domain import Order, OrderNotCancellable, OrderStatus
from services.order.engine import idempotency
from services.order.saga import Kind, Status
from services.order.store import Answer
from shared.encoding import encode
from tests.unit.order.samples import NO_MONEY, NOW, ORDER_ID, OUT_OF_STOCK, a_saga, an_order

S = OrderStatus


def final(kind: Kind, order: Order, problem: Any = None) -> Answer:
    return idempotency.final(kind, order, problem, encode(order.view()))


@pytest.mark.parametrize(("kind", "status"), [(Kind.PLACE_NOW, S.PAID), (Kind.PLACE_LATER, S.PENDING_PAYMENT)])
def test_placed_order_is_answered_201_with_its_location(kind: Kind, status: OrderStatus) -> None:
    answer = final(kind, an_order(status))
    assert (answer.status, answer.location) == (201, f"/v1/orders/{ORDER_ID}")
    assert json.loads(answer.body)["status"] == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [(Kind.PAY, S.PAID), (Kind.CLOSE, S.CANCELLED), (Kind.CLOSE, S.REFUNDED)],
)
def test_a_paid_or_cancelled_order_is_answered_200(kind: Kind, status: OrderStatus) -> None:
    answer = final(kind, an_order(status))
    assert (answer.status, answer.location) == (200, None)


def test_a_rejected_order_is_answered_with_the_problem_and_its_id() -> None:
    answer = final(Kind.PLACE_NOW, an_order(S.REJECTED, reason="out-of-stock"), OUT_OF_STOCK.body)
    problem = json.loads(answer.body)
    assert answer.status == 400
    assert problem == {**OUT_OF_STOCK.body, "order_id": str(ORDER_ID), "instance": "/v1/orders"}


def test_a_refused_payment_is_answered_with_the_problem_of_its_debit() -> None:
    answer = final(Kind.PAY, an_order(S.PENDING_PAYMENT), NO_MONEY.body)
    assert answer.status == 400
    assert json.loads(answer.body)["instance"] == f"/v1/orders/{ORDER_ID}/payment"


def test_a_payment_that_an_operator_undid_is_answered_as_not_payable() -> None:
    answer = final(Kind.PAY, an_order(S.CANCELLED))
    assert answer.status == 409
    assert json.loads(answer.body)["type"] == "/problems/order-not-payable"


def test_the_end_of_a_stored_saga_is_answered_with_the_same_bytes() -> None:
    order = an_order(S.PAID, paid_at=NOW)
    saga = a_saga(Kind.PLACE_NOW, status=Status.DONE, order=order)
    assert idempotency.ended(saga) == final(Kind.PLACE_NOW, order)
    refused = replace(saga, order=an_order(S.REJECTED, reason="out-of-stock"), problem=OUT_OF_STOCK.body)
    assert idempotency.ended(refused) == final(Kind.PLACE_NOW, refused.order, OUT_OF_STOCK.body)


def test_operation_already_in_effect_is_answered_with_the_order() -> None:
    answer = idempotency.already(an_order(S.PAID, paid_at=NOW))
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "PAID")


def test_a_refused_operation_names_its_order_and_its_path() -> None:
    answer = idempotency.refused(Kind.CLOSE, OrderNotCancellable("The order is PAYING."), ORDER_ID)
    assert json.loads(answer.body) == {
        "type": "/problems/order-not-cancellable",
        "title": "The order can't be cancelled as it stands",
        "status": 409,
        "detail": "The order is PAYING.",
        "order_id": str(ORDER_ID),
        "instance": f"/v1/orders/{ORDER_ID}/cancel",
    }


def test_refusal_has_the_same_bytes_in_whatever_order_its_members_were_stored() -> None:
    problem = {**OUT_OF_STOCK.body, "product_ids": ["cup"]}
    stored = dict(reversed(problem.items()))
    order = an_order(S.REJECTED, reason="out-of-stock")
    assert final(Kind.PLACE_NOW, order, stored) == final(Kind.PLACE_NOW, order, problem)
