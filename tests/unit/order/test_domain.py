"""The price of an order, and when it may be paid, cancelled or expired."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.order.domain import (
    AMOUNT_MAX,
    Already,
    AmountTooLarge,
    Attach,
    Begin,
    Line,
    Order,
    OrderExpired,
    OrderNotCancellable,
    OrderNotPayable,
    OrderStatus,
    discount,
    price,
    rule_on_cancellation,
    rule_on_expiry,
    rule_on_payment,
    with_products,
    without_products,
)
from tests.unit.order.samples import LATER, NOW, SAGA_ID, a_live_saga, an_order, held

S = OrderStatus
UNPAID = an_order(S.PENDING_PAYMENT, expires_at=LATER)
PAYING = an_order(S.PAYING, expires_at=LATER)
PAID = an_order(S.PAID, paid_at=NOW)


def test_an_order_costs_the_sum_of_its_lines_at_the_prices_of_its_hold() -> None:
    priced = price(an_order(), held())
    assert [(line.name, line.unit_price, line.amount) for line in priced.lines] == [
        ("Cup", 1000, 2000),
        ("Pen", 300, 300),
    ]
    assert (priced.subtotal_amount, priced.discount_amount, priced.total_amount) == (2300, 0, 2300)


def test_the_order_of_the_held_lines_does_not_matter() -> None:
    assert price(an_order(), held()[::-1]) == price(an_order(), held())


def test_a_discount_lowers_the_total_and_not_the_subtotal() -> None:
    discounted = discount(price(an_order(), held()), 2300)
    assert (discounted.subtotal_amount, discounted.discount_amount, discounted.total_amount) == (2300, 2300, 0)


def test_largest_amount_of_an_account_is_a_valid_price() -> None:
    order = an_order(lines=(Line("moon", 1),))
    assert price(order, [{"product_id": "moon", "name": "Moon", "unit_price": AMOUNT_MAX}]).total_amount == AMOUNT_MAX


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, AMOUNT_MAX)), min_size=1, max_size=50))
def test_a_subtotal_is_exact_or_refused(lines: list[tuple[int, int]]) -> None:
    order = an_order(lines=tuple(Line(f"p{n}", quantity) for n, (quantity, _) in enumerate(lines)))
    prices = [{"product_id": f"p{n}", "name": "P", "unit_price": unit} for n, (_, unit) in enumerate(lines)]
    exact = sum(quantity * unit for quantity, unit in lines)
    if exact <= AMOUNT_MAX:
        assert price(order, prices).subtotal_amount == exact
    else:
        with pytest.raises(AmountTooLarge):
            price(order, prices)


def test_view_omits_fields_that_do_not_apply() -> None:
    view = an_order().view()
    assert view["subtotal_amount"] is None
    assert not {"coupon_id", "expires_at", "paid_at", "closing", "reason"} & set(view)
    assert UNPAID.view()["expires_at"] == LATER
    assert replace(PAID, closing=S.REFUNDED).view()["closing"] is True


def test_an_unpaid_order_in_time_may_be_paid() -> None:
    assert rule_on_payment(UNPAID, None, NOW) == Begin()


def test_payment_attaches_to_a_running_payment() -> None:
    assert rule_on_payment(PAYING, a_live_saga("pay"), NOW) == Attach(SAGA_ID)


def test_a_paid_order_is_paid_already() -> None:
    assert rule_on_payment(PAID, None, NOW) == Already()


def test_payment_at_expires_at_is_refused_before_the_scheduler_ran() -> None:
    assert rule_on_payment(UNPAID, None, LATER - timedelta(microseconds=1)) == Begin()
    with pytest.raises(OrderExpired):
        rule_on_payment(UNPAID, None, LATER)


@pytest.mark.parametrize("order", [an_order(S.EXPIRED), replace(UNPAID, closing=S.EXPIRED)])
def test_expired_or_expiring_order_refuses_payment_as_expired(order: Order) -> None:
    with pytest.raises(OrderExpired):
        rule_on_payment(order, a_live_saga() if order.closing else None, NOW)


@pytest.mark.parametrize(
    "order",
    [
        an_order(S.PLACING),
        an_order(S.REJECTED),
        an_order(S.CANCELLED),
        an_order(S.REFUNDED),
        replace(UNPAID, closing=S.CANCELLED),
        replace(PAID, closing=S.REFUNDED),
    ],
    ids=lambda order: f"{order.status} closing {order.closing}",
)
def test_order_in_any_other_state_refuses_payment(order: Order) -> None:
    with pytest.raises(OrderNotPayable):
        rule_on_payment(order, a_live_saga() if order.closing or order.status is S.PLACING else None, NOW)


def test_a_payment_that_is_being_undone_can_not_be_attached_to_as_a_closing() -> None:
    with pytest.raises(OrderNotCancellable):
        rule_on_cancellation(PAYING, a_live_saga("pay"))


def test_cancelling_makes_an_unpaid_order_cancelled_and_a_paid_one_refunded() -> None:
    assert rule_on_cancellation(UNPAID, None) == Begin(S.CANCELLED)
    assert rule_on_cancellation(PAID, None) == Begin(S.REFUNDED)


@pytest.mark.parametrize("status", [S.CANCELLED, S.REFUNDED])
def test_a_repeated_cancellation_is_done_already(status: OrderStatus) -> None:
    assert rule_on_cancellation(an_order(status), None) == Already()


@pytest.mark.parametrize("closing", [S.CANCELLED, S.REFUNDED])
def test_cancellation_attaches_to_a_running_cancellation(closing: OrderStatus) -> None:
    order = replace(PAID if closing is S.REFUNDED else UNPAID, closing=closing)
    assert rule_on_cancellation(order, a_live_saga()) == Attach(SAGA_ID)


@pytest.mark.parametrize(
    ("order", "live"),
    [
        (an_order(S.PLACING), True),
        (PAYING, True),
        (an_order(S.REJECTED), False),
        (an_order(S.EXPIRED), False),
        (replace(UNPAID, closing=S.EXPIRED), True),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_order_in_any_other_state_refuses_cancellation(order: Order, live: bool) -> None:
    with pytest.raises(OrderNotCancellable):
        rule_on_cancellation(order, a_live_saga("pay") if live else None)


def test_unpaid_order_expires_at_expires_at_and_not_before() -> None:
    assert rule_on_expiry(UNPAID, None, LATER) == Begin(S.EXPIRED)
    with pytest.raises(OrderNotCancellable):
        rule_on_expiry(UNPAID, None, LATER - timedelta(microseconds=1))


@pytest.mark.parametrize(
    "order", [PAYING, PAID, an_order(S.PLACING, expires_at=NOW), replace(UNPAID, closing=S.CANCELLED)]
)
def test_expiry_loses_against_an_earlier_operation(order: Order) -> None:
    with pytest.raises(OrderNotCancellable):
        rule_on_expiry(order, None, LATER)


def test_expiry_loses_against_any_live_saga() -> None:
    with pytest.raises(OrderNotCancellable):
        rule_on_expiry(UNPAID, a_live_saga("pay"), LATER)


LINES = tuple(Line(f"p-{n}", 1) for n in range(50))


@given(st.lists(st.integers(0, 49), unique=True))
def test_problem_stored_without_its_products_is_the_same_with_them(places: list[int]) -> None:
    products = [LINES[place].product_id for place in sorted(places)]
    problem = {"type": "/problems/out-of-stock", "status": 400, "product_ids": products}
    short = without_products(problem, LINES)
    assert short is not None
    assert "product_ids" not in short
    assert with_products(short, LINES) == problem


@pytest.mark.parametrize("products", [["p-2", "p-1"], ["elsewhere"], ["p-1", "p-1"]])
def test_problem_with_other_products_than_the_lines_is_stored_whole(products: list[str]) -> None:
    problem = {"status": 400, "product_ids": products}
    assert without_products(problem, LINES) == problem


@pytest.mark.parametrize("problem", [None, {"status": 400, "detail": "It has expired."}])
def test_problem_without_products_stays(problem: dict[str, object] | None) -> None:
    assert with_products(without_products(problem, LINES), LINES) == problem
