"""Without a lease a process begins nothing; it checks the lease by its own clock."""

import asyncio

import pytest

from services.order.engine.admission import Admission, Lease
from services.order.engine.registry import SagaRegistry
from shared.refusals import Unavailable

SECONDS = 5.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_lease_is_valid_from_its_first_renewal() -> None:
    lease = Lease(SECONDS)
    with pytest.raises(Unavailable, match="no lease"):
        lease.check()
    lease.renewed(now())
    assert lease.valid
    lease.check()


async def test_a_lease_counts_from_the_question_not_from_the_answer() -> None:
    lease = Lease(SECONDS)
    lease.renewed(asked_at=now() - SECONDS)
    assert not lease.valid
    with pytest.raises(Unavailable, match="no lease"):
        lease.check()


async def test_released_lease_is_not_valid() -> None:
    lease = Lease(SECONDS)
    lease.renewed(now())
    lease.given_up()
    assert not lease.valid


async def test_without_a_lease_no_order_is_placed_and_none_continues() -> None:
    lease = Lease(SECONDS)
    admission = Admission(SagaRegistry(), 10, (lease.check,))
    for ask in (admission.check_capacity, admission.check_hard_limit, admission.check_fitness):
        with pytest.raises(Unavailable, match="no lease"):
            ask()
    lease.renewed(now())
    admission.check_capacity()
    admission.check_hard_limit()
    admission.check_fitness()
