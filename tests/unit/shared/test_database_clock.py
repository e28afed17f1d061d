"""The estimate of the database's clock advances between answers, and each newer answer corrects it."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.postgres.clocks import ANSWER_LATE_MAX, DatabaseClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Watch:
    """Elapsed time that a test advances."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_clock_advances_from_the_last_observed_time() -> None:
    watch = Watch()
    clock = DatabaseClock(watch)
    assert not clock.known
    clock.observe(NOON)
    watch.seconds += 1.5
    assert (clock.known, clock.now()) == (True, NOON + timedelta(seconds=1.5))


@pytest.mark.parametrize("ahead", [-0.4, 3600.0])
def test_later_observation_corrects_the_clock(ahead: float) -> None:
    watch = Watch()
    clock = DatabaseClock(watch)
    clock.observe(NOON)
    watch.seconds += 1
    observed = NOON + timedelta(seconds=1 + ahead)
    clock.observe(observed)
    assert clock.now() == observed


def test_overtaken_answer_does_not_set_the_clock_back() -> None:
    clock = DatabaseClock(Watch())
    clock.observe(NOON)
    clock.observe(NOON - timedelta(milliseconds=20))
    assert clock.now() == NOON


def test_clock_follows_a_server_clock_that_was_set_back() -> None:
    clock = DatabaseClock(Watch())
    clock.observe(NOON)
    clock.observe(NOON - ANSWER_LATE_MAX)
    assert clock.now() == NOON - ANSWER_LATE_MAX
