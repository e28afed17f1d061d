"""Every problem type of the catalogue is an exception of the client, with its members, and repeated as it says."""

import re
from uuid import UUID

import pytest

from deploy.client.problems import KINDS, InsufficientBalance, OfProducts, Problem, problem
from deploy.client.retries import is_temporary
from shared.contracts.problem_types import FOR_CLIENTS
from shared.contracts.problem_types.problem_type import ProblemType, Retry

ORDER_ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"


def a_body(slug: str, **members: object) -> dict[str, object]:
    """Return the body of a problem."""
    standard = {"title": "No", "status": 400, "detail": "Because", "instance": "/v1/orders"}
    return {"type": f"/problems/{slug}", **standard, **members}


def test_each_type_for_clients_is_an_exception_and_no_other_is() -> None:
    assert set(KINDS) == {one.slug for one in FOR_CLIENTS}


@pytest.mark.parametrize("type_", FOR_CLIENTS, ids=lambda type_: type_.slug)
def test_members_of_a_type_are_attributes(type_: ProblemType) -> None:
    members = set(re.findall(r"`(\w+)`", type_.members))
    assert all(isinstance(getattr(KINDS[type_.slug], name), property) for name in members)


@pytest.mark.parametrize("type_", FOR_CLIENTS, ids=lambda type_: type_.slug)
def test_what_the_catalogue_lets_repeat_is_repeated_and_nothing_else(type_: ProblemType) -> None:
    error = problem(a_body(type_.slug, status=type_.status))
    assert is_temporary(error) is (type_.retry is Retry.SAME)


def test_problem_has_what_the_service_said() -> None:
    error = problem(a_body("insufficient-balance", required=90, available=7, order_id=ORDER_ID))
    assert isinstance(error, InsufficientBalance)
    assert (error.slug, error.status, error.detail) == ("insufficient-balance", 400, "Because")
    assert (error.required, error.available, error.order_id) == (90, 7, UUID(ORDER_ID))
    assert str(error) == "400 insufficient-balance: Because"


def test_problem_of_an_unknown_type_keeps_its_members() -> None:
    error = problem(a_body("sold-to-the-moon", price=1))
    assert type(error) is Problem
    assert (error.slug, error.members, error.order_id) == ("sold-to-the-moon", {"price": 1}, None)


def test_products_of_a_problem_are_all_named() -> None:
    error = problem(a_body("out-of-stock", product_ids=["a", "b"]))
    assert isinstance(error, OfProducts)
    assert error.product_ids == ["a", "b"]
