"""This host's clock is compared with the database's: a difference of minutes is reported, one of seconds is not."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from shared.postgres.clocks import SKEW_MAX_SECONDS, ClocksDisagree, DatabaseClock, HostClock
from shared.refusals import Unavailable

DAYS = timedelta(days=100)


async def database_s(ahead: timedelta) -> datetime:
    """Return the answer of a database whose clock is `ahead` of this host's."""
    return datetime.now(UTC) + ahead


async def compared(ahead: timedelta) -> HostClock:
    clock = HostClock()
    await clock.compare(database_s(ahead))
    return clock


def test_before_they_are_compared_the_clocks_are_taken_to_agree() -> None:
    HostClock().check()


@pytest.mark.parametrize("sign", [-1, 1])
async def test_clocks_that_differ_by_less_than_the_bound_agree(sign: int) -> None:
    clock = await compared(sign * timedelta(seconds=SKEW_MAX_SECONDS - 5))
    assert clock.agrees
    clock.check()


async def test_clocks_that_differ_by_the_bound_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000.0)

    async def ahead() -> datetime:
        return datetime.fromtimestamp(1_000.0 + SKEW_MAX_SECONDS, UTC)

    clock = HostClock()
    await clock.compare(ahead())
    assert clock.agrees


@pytest.mark.parametrize(
    ("ahead", "direction"), [(DAYS, "8640000 s behind"), (-DAYS, "8640000 s ahead of")], ids=["behind", "ahead"]
)
async def test_clocks_that_differ_by_more_disagree_with_the_direction_named(ahead: timedelta, direction: str) -> None:
    clock = await compared(ahead)
    assert not clock.agrees
    with pytest.raises(ClocksDisagree, match=f"this host's clock is {direction} the database's") as error:
        clock.check()
    assert isinstance(error.value, Unavailable), "a request that comes meanwhile is answered 503"
    skew = REGISTRY.get_sample_value("host_clock_skew_seconds")
    assert skew == pytest.approx(-ahead.total_seconds(), abs=1)


async def test_clocks_that_are_set_right_agree_again() -> None:
    clock = await compared(DAYS)
    await clock.compare(database_s(timedelta()))
    clock.check()


async def test_an_answer_that_took_long_is_counted_from_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_000.0, 1_000.0 + 2 * SKEW_MAX_SECONDS])
    monkeypatch.setattr(time, "time", lambda: next(times))

    async def slow() -> datetime:
        return datetime.fromtimestamp(1_000.0 + SKEW_MAX_SECONDS, UTC)

    clock = HostClock()
    await clock.compare(slow())
    assert clock.agrees


async def test_a_comparison_sets_the_database_s_clock() -> None:
    database = DatabaseClock()
    await HostClock(database).compare(database_s(DAYS))
    assert database.now() - datetime.now(UTC) == pytest.approx(DAYS, abs=timedelta(seconds=1))


async def test_a_database_that_does_not_answer_leaves_the_last_comparison() -> None:
    async def away() -> datetime:
        raise Unavailable

    clock = await compared(DAYS)
    with pytest.raises(Unavailable):
        await clock.compare(away())
    assert not clock.agrees
