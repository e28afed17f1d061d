"""Reading wrk's results, and the rounds that do not count."""

from typing import Any

import pytest

from tests.bench.checkout.load import Load, LoadError, together

COLD = Load("cold", 64, 10)


def counted(**changes: Any) -> dict[str, Any]:
    figures = {"requests": 100, "seconds": 10.0, "broken": 0, "error_statuses": 0, "coupons": 30}
    return {**figures, "placed": 0, "paid": 0, "refused": 0, "other": 0, "p50_us": 20, "p99_us": 50, **changes}


def test_every_answer_is_a_checkout_when_none_is_refused() -> None:
    answers = together([counted()], COLD, 0.5)
    assert (answers.checkouts, answers.refused, answers.rate) == (100, 0, 10.0)
    assert answers.latency == {"p50": 20, "p99": 50}


def test_refusals_are_no_checkouts() -> None:
    answers = together([counted(refused=20, error_statuses=20)], Load("refusals", 64, 10), 0.5)
    assert (answers.checkouts, answers.refused) == (80, 20)


def test_paying_later_takes_two_requests_a_checkout() -> None:
    assert together([counted(placed=51, paid=49)], Load("later", 64, 10), 0.5).checkouts == 49


def test_several_loads_add_up_and_the_slowest_counts() -> None:
    answers = together([counted(), counted(p99_us=80, coupons=40)], COLD, 0.5)
    assert (answers.checkouts, answers.latency["p99"], answers.coupons) == (200, 80, 80)


@pytest.mark.parametrize(
    "changes",
    [
        {"error_statuses": 1},  # for example a 503 in a scenario without refusals
        {"broken": 1},  # a reset connection, or a missing answer
        {"other": 1},  # a 202
        {"refused": 1, "error_statuses": 1},
        {"requests": 0},
    ],
)
def test_an_answer_that_no_client_expects_fails_the_round(changes: dict[str, int]) -> None:
    with pytest.raises(LoadError):
        together([counted(**changes)], COLD, 0.5)


def test_an_error_among_refusals_fails_the_round() -> None:
    with pytest.raises(LoadError):
        together([counted(refused=20, error_statuses=21)], Load("refusals", 64, 10), 0.5)
