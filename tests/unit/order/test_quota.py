"""What one caller may begin in a process, by number under way and by rate."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.order.domain import SagaId
from services.order.engine import quota
from services.order.engine.quota import Quota, TooManyRequests
from services.order.engine.registry import SagaRegistry
from services.order.saga import Kind
from shared.ids import uuid7
from tests.unit.order.samples import a_saga


class Time:
    """A clock that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def begin(limit: Quota, subject: str | None, times: int = 1) -> int:
    """Begin and end operations; return how many were allowed."""
    allowed = 0
    for _ in range(times):
        try:
            limit.enter(subject)
        except TooManyRequests:
            continue
        limit.leave(subject)
        allowed += 1
    return allowed


def test_caller_begins_the_budget_of_a_minute_at_once_and_no_more() -> None:
    limit = Quota(per_minute=7, under_way_max=1, clock=Time())
    assert begin(limit, "ann", 20) == 7


def test_budget_returns_evenly_and_the_refusal_names_the_seconds() -> None:
    time = Time()
    limit = Quota(per_minute=10, under_way_max=1, clock=time)
    assert begin(limit, "ann", 10) == 10
    with pytest.raises(TooManyRequests) as refused:
        limit.enter("ann")
    assert refused.value.retry_after_seconds == 6
    assert refused.value.status == 429
    time.now += 5.9
    assert begin(limit, "ann") == 0
    time.now += 0.1
    assert begin(limit, "ann", 2) == 1
    time.now += 3600
    assert begin(limit, "ann", 20) == 10


@given(st.integers(1, 20), st.lists(st.floats(0, 90), max_size=20))
def test_no_minute_has_more_than_two_budgets(per_minute: int, pauses: list[float]) -> None:
    time = Time()
    limit = Quota(per_minute=per_minute, under_way_max=1, clock=time)
    begun: list[float] = []
    for pause in pauses:
        time.now += pause
        begun += [time.now] * begin(limit, "ann", per_minute + 1)
    assert all(sum(first <= at < first + 60 for at in begun) <= 2 * per_minute for first in begun)


def test_one_caller_uses_nothing_of_another_ones_budget() -> None:
    limit = Quota(per_minute=2, under_way_max=1, clock=Time())
    assert begin(limit, "ann", 5) == 2
    assert begin(limit, "bob", 5) == 2


def test_operation_under_way_counts_until_it_ends() -> None:
    limit = Quota(per_minute=100, under_way_max=2, clock=Time())
    limit.enter("ann")
    limit.enter("ann")
    with pytest.raises(TooManyRequests) as refused:
        limit.enter("ann")
    assert refused.value.retry_after_seconds == 1
    limit.enter("bob")
    limit.leave("ann")
    limit.enter("ann")


def test_refused_operation_uses_nothing() -> None:
    time = Time()
    limit = Quota(per_minute=1, under_way_max=1, clock=time)
    limit.enter("ann")
    assert begin(limit, "ann", 100) == 0  # one is under way
    limit.leave("ann")
    assert begin(limit, "ann", 100) == 0  # the minute's budget is used up
    time.now += 60
    assert begin(limit, "ann") == 1


def test_call_without_a_subject_has_no_limit() -> None:
    limit = Quota(per_minute=1, under_way_max=1, clock=Time())
    for _ in range(100):
        limit.enter(None)
    assert begin(limit, None, 100) == 100


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "SUBJECTS_MAX", 100)
    limit = Quota(per_minute=1, under_way_max=1, clock=Time())
    assert begin(limit, "first") == 1
    for number in range(1000):
        assert begin(limit, f"user {number}") == 1
        begin(limit, "refused")  # its time is the latest, so it stays
    assert len(limit._full_at) == 100
    assert not limit._under_way
    assert begin(limit, "refused") == 0
    assert begin(limit, "first") == 1  # forgotten


async def test_saga_is_under_way_after_its_request_until_it_ends() -> None:
    registry, limit = SagaRegistry(), Quota(per_minute=100, under_way_max=1, clock=Time())
    saga, end = a_saga(Kind.PLACE_NOW, saga_id=SagaId(uuid7())), asyncio.Event()

    async def work() -> None:
        await end.wait()
        registry.ended(saga.saga_id)

    limit.enter("ann")
    registry.begin(saga, work())
    registry.when_ended(saga.saga_id, lambda: limit.leave("ann"))
    assert begin(limit, "ann") == 0
    end.set()
    await registry.drain(10)
    assert begin(limit, "ann") == 1
    limit.enter("ann")
    registry.when_ended(saga.saga_id, lambda: limit.leave("ann"))  # it has ended, so at once
    assert begin(limit, "ann") == 1
