"""How long a shard's events are let gather: not at a low rate, the longest at a high one, and never a backlog."""

import pytest

from services.relay.domain.batching import BACKLOG_EVENTS, PAUSE_MAX_SECONDS, RATE_FULL, RATE_MIN, BatchPacer


def pauses(rate: float, *, burst: int = 1, seconds: float = 5.0) -> list[float]:
    """The pauses of a shard that gets `burst` events at a time, `rate` a second in all."""
    pacer, step = BatchPacer(), burst / rate
    return [pacer.next_pause(burst, number * step) for number in range(int(seconds / step))]


@pytest.mark.parametrize("burst", [1, 4])
def test_at_a_low_rate_every_batch_leaves_at_once(burst: int) -> None:
    assert set(pauses(RATE_MIN * 0.9, burst=burst)) == {0.0}


def test_at_a_high_rate_batches_stay_apart_as_long_as_they_may() -> None:
    assert pauses(RATE_FULL * 1.1)[-1] == PAUSE_MAX_SECONDS


def test_between_them_the_pause_grows_with_the_rate() -> None:
    between = [pauses(rate)[-1] for rate in (RATE_MIN + 20, (RATE_MIN + RATE_FULL) / 2, RATE_FULL - 20)]
    assert 0 < between[0] < between[1] < between[2] < PAUSE_MAX_SECONDS


def test_batches_stay_apart_as_long_as_an_operator_says_at_any_rate() -> None:
    pacer = BatchPacer(0.02, most_seconds=0.0)
    assert {pacer.next_pause(1, number * seconds) for number, seconds in enumerate([1.0, 0.001, 0.001])} == {0.02}


def test_what_goes_out_together_may_be_as_many_times_as_much() -> None:
    together, alone = BatchPacer(), BatchPacer()
    for number in range(1000):
        assert together.next_pause(12, number * 0.01, shards=4) == alone.next_pause(3, number * 0.01)


def test_a_backlog_does_not_wait() -> None:
    pacer = BatchPacer(0.02)
    assert {pacer.next_pause(BACKLOG_EVENTS, number * 0.01) for number in range(100)} == {0.0}


def test_a_shard_that_becomes_quiet_stops_waiting() -> None:
    pacer = BatchPacer()
    for number in range(1000):
        pacer.next_pause(5, number * 0.01)
    assert pacer.next_pause(0, 12.0) == 0.0
    assert pacer.next_pause(1, 12.1) == 0.0
