"""The fingerprint that distinguishes requests with the same idempotency key, and the start of a new order."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.order.domain import OrderStatus
from services.order.engine.operations import KeyClaim, Start, fingerprint, new_order
from services.order.saga import Kind
from shared.slots import slot_in, slot_of

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_the_order_of_members_does_not_matter(body: dict[str, Any]) -> None:
    assert fingerprint(body) == fingerprint(dict(reversed(body.items())))


@given(JSON, JSON)
def test_different_requests_have_different_fingerprints(one: Any, other: Any) -> None:
    # repr distinguishes True from 1, as JSON does.
    if repr(one) != repr(other) and one != other:
        assert fingerprint(one) != fingerprint(other)


def test_a_key_is_unique_by_user_and_operation() -> None:
    claim = KeyClaim("ann", "pay", "k1", b"")
    assert claim.place == ("ann", "pay", "k1")
    assert claim.place != KeyClaim("bob", "pay", "k1", b"").place
    assert claim.place != KeyClaim("ann", "cancel", "k1", b"").place


def test_a_new_order_is_placing_and_only_one_that_is_paid_now_has_a_payment() -> None:
    now = new_order(datetime.now(UTC), "ann", [("cup", 2)], None, pay_now=True)
    later = new_order(datetime.now(UTC), "ann", [("cup", 2)], "WELCOME", pay_now=False)
    assert (now.status, now.payment_attempt, later.payment_attempt) == (OrderStatus.PLACING, 1, 0)
    assert now.order_id != later.order_id
    assert [(line.product_id, line.quantity, line.amount) for line in now.lines] == [("cup", 2, None)]


def test_new_order_s_id_contains_its_creation_time() -> None:
    then = datetime(2020, 2, 29, 12, tzinfo=UTC)  # not this host's time
    order = new_order(then, "ann", [("cup", 1)], None, pay_now=True)
    assert order.order_id.int >> 80 == then.timestamp() * 1000


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_new_order_s_id_contains_its_users_slot(user_id: str) -> None:
    order = new_order(datetime.now(UTC), user_id, [("cup", 1)], None, pay_now=True)
    assert slot_in(order.order_id) == slot_of(user_id)


def test_every_start_has_a_saga_id_of_its_own() -> None:
    order = new_order(datetime.now(UTC), "ann", [("cup", 1)], None, pay_now=True)
    assert Start(Kind.PAY, order.order_id).saga_id != Start(Kind.PAY, order.order_id).saga_id
