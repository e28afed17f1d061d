"""/readyz answers within its time limit with any check, and concurrent probes share one run of the checks."""

import asyncio
import json
from contextlib import suppress

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Response

from shared.http import readiness
from shared.http.readiness import CHECK_SECONDS, NO_ANSWER, Check, Readiness
from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop

MARGIN_SECONDS = 0.15  # beyond the second that a probe waits


class Asked:
    """A check that waits for the test."""

    def __init__(self) -> None:
        self.count = 0
        self.through = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        await self.through.wait()


async def fine() -> None:
    """A check that succeeds."""


async def away() -> None:
    raise OSError("nobody there")


async def timed(checks: Readiness) -> dict[str, str]:
    """Return the answers; fail if they are late."""
    async with asyncio.timeout(CHECK_SECONDS + MARGIN_SECONDS):
        return await checks.ask()


async def test_each_check_is_answered_by_its_name() -> None:
    assert await timed(Readiness({"fine": fine, "away": away})) == {"fine": "ok", "away": "OSError: nobody there"}


async def test_a_service_without_checks_has_nothing_to_answer() -> None:
    assert await timed(Readiness({})) == {}


async def test_a_check_that_hangs_is_cut_off_and_the_others_are_answered() -> None:
    hangs = Asked()
    checks = Readiness({"fine": fine, "hangs": hangs})
    assert await timed(checks) == {"fine": "ok", "hangs": NO_ANSWER}
    hangs.through.set()
    assert await timed(checks) == {"fine": "ok", "hangs": "ok"}
    assert hangs.count == 2


async def test_a_check_that_resists_its_cancellation_is_not_started_again_meanwhile() -> None:
    count, through = 0, asyncio.Event()

    async def resists() -> None:
        nonlocal count
        count += 1
        while not through.is_set():
            with suppress(asyncio.CancelledError):
                await through.wait()

    checks = Readiness({"resists": resists})
    assert await timed(checks) == {"resists": NO_ANSWER}
    assert await timed(checks) == {"resists": NO_ANSWER}
    assert count == 1
    through.set()
    assert await timed(checks) == {"resists": "ok"}


async def test_probes_that_come_together_share_one_run() -> None:
    check: Asked = Asked()
    checks = Readiness({"check": check})
    probes = [asyncio.create_task(checks.ask()) for _ in range(50)]
    await asyncio.sleep(0)
    probes[0].cancel()  # a probe that gives up does not end the run of the others
    await asyncio.sleep(0)
    check.through.set()
    assert await asyncio.gather(*probes[1:]) == [{"check": "ok"}] * 49
    assert check.count == 1


async def test_a_probe_after_the_run_starts_another() -> None:
    count = 0

    async def counted() -> None:
        nonlocal count
        count += 1

    check: Check = counted
    checks = Readiness({"check": check})
    await checks.ask()
    await checks.ask()
    assert count == 2


async def test_probe_that_comes_during_a_run_begins_no_check_again() -> None:
    count = 0

    async def counted() -> None:
        nonlocal count
        count += 1

    slow = Asked()
    checks = Readiness({"counted": counted, "slow": slow})
    first = asyncio.create_task(checks.ask())
    for _ in range(5):  # until the first check has ended
        await asyncio.sleep(0)
    assert count == 1
    second = asyncio.create_task(checks.ask())
    await asyncio.sleep(0)
    slow.through.set()
    assert await first == await second == {"counted": "ok", "slow": "ok"}
    assert count == 1


async def test_the_first_time_that_all_checks_pass_is_waited_for() -> None:
    check = Asked()
    waiting = asyncio.create_task(Readiness({"fine": fine, "check": check}).first_ready(Stop()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    check.through.set()
    await waiting


async def test_checks_that_fail_are_asked_again_until_they_pass() -> None:
    count = 0

    async def third_time_lucky() -> None:
        nonlocal count
        count += 1
        if count < 3:
            raise OSError("nobody there")

    async with asyncio.timeout(5):
        await Readiness({"lucky": third_time_lucky}).first_ready(Stop())
    assert count == 3


async def test_the_wait_for_the_first_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FIRST_READY_SECONDS", 0.2)
    async with asyncio.timeout(5):
        await Readiness({"away": away}).first_ready(Stop())


async def test_a_stop_ends_the_wait_for_the_first_time() -> None:
    stop = Stop()
    waiting = asyncio.create_task(Readiness({"away": away}).first_ready(stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(5):
        await waiting


async def test_service_that_stops_is_not_ready() -> None:
    settings = ServiceSettings.model_validate({"port": 1, "database_url": "postgresql://nowhere"})
    server = HttpServer("x", "x", settings, OpenAuthenticator(), [], {"database": fine})
    assert await asked(server) == (200, {"database": "ok"})
    server._stop.announced = True
    assert await asked(server) == (503, {"database": "ok", "process": "is stopping"})


async def asked(server: HttpServer) -> tuple[int, dict[str, str]]:
    """Return the status and the checks that /readyz answers."""
    response = await server._readyz(make_mocked_request("GET", "/readyz"))
    assert isinstance(response, Response)
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)["checks"]
