"""/readyz answers within its time limit with any check, and concurrent probes share one run of the checks."""

import asyncio
import json
from contextlib import suppress

from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Response

from shared.http.readiness import CHECK_SECONDS, NO_ANSWER, Check, Readiness
from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.process.settings import ServiceSettings

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


async def timed(readiness: Readiness) -> dict[str, str]:
    """Return the answers; fail if they are late."""
    async with asyncio.timeout(CHECK_SECONDS + MARGIN_SECONDS):
        return await readiness.ask()


async def test_each_check_is_answered_by_its_name() -> None:
    assert await timed(Readiness({"fine": fine, "away": away})) == {"fine": "ok", "away": "OSError: nobody there"}


async def test_a_service_without_checks_has_nothing_to_answer() -> None:
    assert await timed(Readiness({})) == {}


async def test_a_check_that_hangs_is_cut_off_and_the_others_are_answered() -> None:
    hangs = Asked()
    readiness = Readiness({"fine": fine, "hangs": hangs})
    assert await timed(readiness) == {"fine": "ok", "hangs": NO_ANSWER}
    hangs.through.set()
    assert await timed(readiness) == {"fine": "ok", "hangs": "ok"}
    assert hangs.count == 2


async def test_a_check_that_resists_its_cancellation_is_not_started_again_meanwhile() -> None:
    count, through = 0, asyncio.Event()

    async def resists() -> None:
        nonlocal count
        count += 1
        while not through.is_set():
            with suppress(asyncio.CancelledError):
                await through.wait()

    readiness = Readiness({"resists": resists})
    assert await timed(readiness) == {"resists": NO_ANSWER}
    assert await timed(readiness) == {"resists": NO_ANSWER}
    assert count == 1
    through.set()
    assert await timed(readiness) == {"resists": "ok"}


async def test_probes_that_come_together_share_one_run() -> None:
    check: Asked = Asked()
    readiness = Readiness({"check": check})
    probes = [asyncio.create_task(readiness.ask()) for _ in range(50)]
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
    readiness = Readiness({"check": check})
    await readiness.ask()
    await readiness.ask()
    assert count == 2


async def test_probe_that_comes_during_a_run_begins_no_check_again() -> None:
    count = 0

    async def counted() -> None:
        nonlocal count
        count += 1

    slow = Asked()
    readiness = Readiness({"counted": counted, "slow": slow})
    first = asyncio.create_task(readiness.ask())
    for _ in range(5):  # until the first check has ended
        await asyncio.sleep(0)
    assert count == 1
    second = asyncio.create_task(readiness.ask())
    await asyncio.sleep(0)
    slow.through.set()
    assert await first == await second == {"counted": "ok", "slow": "ok"}
    assert count == 1


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
