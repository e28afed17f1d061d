"""The pause between a shard's batches: none at a low rate, the longest at a high rate, none for a backlog."""

import pytest

from services.relay.domain.batching import BACKLOG_EVENTS, PAUSE_MAX_SECONDS, RATE_FULL, RATE_MIN, BatchPacer


def pauses(rate: float, *, burst: int = 1, seconds: float = 5.0) -> list[float]:
    """Return the pauses of a shard that gets `burst` events at a time, and `rate` events per second."""
    pacer, step = BatchPacer(), burst / rate
    return [pacer.next_pause(burst, number * step) for number in range(int(seconds / step))]


@pytest.mark.parametrize("burst", [1, 4])
def test_low_rate_has_no_pause(burst: int) -> None:
    assert set(pauses(RATE_MIN * 0.9, burst=burst)) == {0.0}


def test_high_rate_gives_the_longest_pause() -> None:
    assert pauses(RATE_FULL * 1.1)[-1] == PAUSE_MAX_SECONDS


def test_pause_grows_with_the_rate() -> None:
    between = [pauses(rate)[-1] for rate in (RATE_MIN + 20, (RATE_MIN + RATE_FULL) / 2, RATE_FULL - 20)]
    assert 0 < between[0] < between[1] < between[2] < PAUSE_MAX_SECONDS


def test_configured_pause_applies_at_any_rate() -> None:
    pacer = BatchPacer(0.02, most_seconds=0.0)
    assert {pacer.next_pause(1, number * seconds) for number, seconds in enumerate([1.0, 0.001, 0.001])} == {0.02}


def test_rate_of_a_group_counts_per_shard() -> None:
    together, alone = BatchPacer(), BatchPacer()
    for number in range(1000):
        assert together.next_pause(12, number * 0.01, shards=4) == alone.next_pause(3, number * 0.01)


def test_backlog_has_no_pause() -> None:
    pacer = BatchPacer(0.02)
    assert {pacer.next_pause(BACKLOG_EVENTS, number * 0.01) for number in range(100)} == {0.0}


def test_quiet_shard_has_no_pause() -> None:
    pacer = BatchPacer()
    for number in range(1000):
        pacer.next_pause(5, number * 0.01)
    assert pacer.next_pause(0, 12.0) == 0.0
    assert pacer.next_pause(1, 12.1) == 0.0
