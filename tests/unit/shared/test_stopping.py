"""How a process is asked to stop: announced, and done after the delay, or at once."""

import asyncio

import pytest

from shared.process.settings import STOP_DELAY_MAX_SECONDS, STOP_DELAY_SECONDS, ServiceSettings
from shared.process.stopping import Stop

SECONDS = 5.0


def listening(delay_seconds: float) -> Stop:
    """Return the stop of a process with an open listener."""
    stop = Stop(delay_seconds)
    stop.listening = True
    return stop


async def test_requested_stop_is_announced_first_and_comes_after_the_delay() -> None:
    stop = listening(0.05)
    begun = asyncio.get_running_loop().time()
    stop.request()
    assert (stop.announced, stop.is_set()) == (True, False)
    await asyncio.wait_for(stop.wait(), SECONDS)
    assert asyncio.get_running_loop().time() - begun >= 0.05


async def test_second_request_ends_the_delay() -> None:
    stop = listening(SECONDS)
    stop.request()
    stop.request()
    assert stop.is_set()


async def test_stop_without_a_delay_or_a_listener_comes_at_once() -> None:
    for stop in (listening(0), Stop(SECONDS)):
        stop.request()
        assert (stop.announced, stop.is_set()) == (True, True)


async def test_stop_that_nobody_requested_is_announced_with_itself() -> None:
    stop = listening(SECONDS)
    stop.set()
    assert (stop.announced, stop.is_set()) == (True, True)


@pytest.mark.parametrize(
    ("mode", "chosen", "delay"),
    [("open", None, 0), ("jwt", None, STOP_DELAY_SECONDS), ("open", "2", 2), ("jwt", "0", 0), (None, None, 0)],
)
def test_delay_is_chosen_or_follows_from_the_mode(mode: str | None, chosen: str | None, delay: float) -> None:
    given = {"port": 1, "database_url": "postgresql://nowhere", "AUTH_MODE": mode, "stop_delay_seconds": chosen}
    assert ServiceSettings.model_validate(given).stop_delay == delay


@pytest.mark.parametrize("seconds", ["-1", str(STOP_DELAY_MAX_SECONDS + 1), "inf", "nan"])
def test_delay_that_no_supervisor_waits_for_is_refused(seconds: str) -> None:
    with pytest.raises(ValueError, match="stop_delay_seconds"):
        ServiceSettings.model_validate(
            {"port": 1, "database_url": "postgresql://nowhere", "stop_delay_seconds": seconds}
        )
