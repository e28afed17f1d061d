"""The database's clock as a process knows it: carried on between answers, corrected by each, led astray by none."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.postgres import ANSWER_LATE_MAX, DatabaseClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Watch:
    """Time that goes by when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_it_goes_on_from_what_was_heard() -> None:
    watch = Watch()
    clock = DatabaseClock(watch)
    assert not clock.known
    clock.heard(NOON)
    watch.seconds += 1.5
    assert (clock.known, clock.now()) == (True, NOON + timedelta(seconds=1.5))


@pytest.mark.parametrize("ahead", [-0.4, 3600.0])
def test_what_is_heard_later_corrects_it(ahead: float) -> None:
    watch = Watch()
    clock = DatabaseClock(watch)
    clock.heard(NOON)
    watch.seconds += 1
    told = NOON + timedelta(seconds=1 + ahead)
    clock.heard(told)
    assert clock.now() == told


def test_an_answer_that_was_overtaken_does_not_set_it_back() -> None:
    clock = DatabaseClock(Watch())
    clock.heard(NOON)
    clock.heard(NOON - timedelta(milliseconds=20))
    assert clock.now() == NOON


def test_it_follows_a_server_whose_clock_was_set_back() -> None:
    clock = DatabaseClock(Watch())
    clock.heard(NOON)
    clock.heard(NOON - ANSWER_LATE_MAX)
    assert clock.now() == NOON - ANSWER_LATE_MAX
