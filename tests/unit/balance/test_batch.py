"""Which debits take the fast path. The others need no database here, because none is used for them."""

from typing import Any

import pytest

from services.balance.batch import fast_path
from services.balance.domain import CHARGED_MAX, Debit, OrderId, UserId
from shared.ids import uuid7

ANN = UserId("ann")


def debit(amount: int, attempt: int = 0) -> Debit:
    return Debit(OrderId(uuid7()), attempt, ANN, amount)


@pytest.mark.parametrize(
    "debits",
    [[debit(CHARGED_MAX), debit(1)], [debit(5, attempt=2)], [debit(0)]],
    ids=["a sum that fits no bigint", "a second payment", "nothing"],
)
async def test_debit_that_the_fast_path_cannot_do_right_is_left_to_the_transaction(debits: list[Debit]) -> None:
    unused: Any = None
    assert await fast_path(unused, debits) == {}
