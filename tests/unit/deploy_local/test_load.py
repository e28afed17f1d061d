"""What `make load` says at its end, and whether that is good."""

from collections import Counter

from deploy.client import OrderStatus
from deploy.local.load import Tally, summary


def test_summary_has_a_line_for_what_ended_and_one_for_times() -> None:
    tally = Tally(Counter({OrderStatus.PAID: 1234, OrderStatus.REFUNDED: 400}), seconds=[0.01] * 98 + [0.5] * 2)
    assert summary(tally, 59.9) == (
        "1,634 orders in 60 s: 1,234 paid, 400 refunded\nplaced within 10 ms (median), 500 ms (p99)"
    )
    assert tally.is_good


def test_refused_order_and_one_without_an_answer_are_named_and_are_not_good() -> None:
    refused = Tally(Counter({OrderStatus.PAID: 1}), Counter({"out-of-stock": 2}), seconds=[0.01])
    assert summary(refused, 1) == "1 orders in 1 s: 1 paid\nrefused: 2 out-of-stock"
    silent = Tally(without_answer=["no final answer; the last attempt: 503"])
    assert summary(silent, 2).splitlines() == [
        "0 orders in 2 s: none",
        "without a final answer: 1; no final answer; the last attempt: 503",
    ]
    assert [one.is_good for one in (refused, silent, Tally())] == [False] * 3
