"""After a timeout the next call gets a longer limit, up to a maximum."""

from contextlib import suppress

from services.relay.domain.batching import WALK_SECONDS, AdaptiveTimeout


def cut_off(timeout: AdaptiveTimeout, error: Exception) -> float:
    """Return the limit of a call that ends with an error."""
    limits = []
    with suppress(type(error)), timeout.limit() as seconds:
        limits.append(seconds)
        raise error
    return limits[0]


def test_limit_grows_only_after_a_timeout() -> None:
    timeout = AdaptiveTimeout(10)
    assert [cut_off(timeout, TimeoutError()) for _ in range(6)] == [10, 30, 90, 270, WALK_SECONDS, WALK_SECONDS]
    timeout = AdaptiveTimeout(10)
    assert [cut_off(timeout, ConnectionError()) for _ in range(2)] == [10, 10]
