"""The reference consumer's /readyz answers in time, and concurrent probes share one run of its checks."""

import asyncio
import json
from typing import Any

from aiohttp.test_utils import make_mocked_request

from deploy.consumer.api import Api, Check
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.stopping import Stop

SETTINGS = ConsumerSettings.model_validate(
    {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1"}
)


class Waiting:
    """A check that waits for the test."""

    def __init__(self) -> None:
        self.count = 0
        self.through = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        await self.through.wait()


def api(check: Check, stop: Stop) -> Api:
    unused: Any = None
    return Api(SETTINGS, unused, {"check": check}, stop)


async def checks(api: Api) -> dict[str, str]:
    response = await api._readyz(make_mocked_request("GET", "/readyz"))
    assert response.text is not None
    found: dict[str, str] = json.loads(response.text)["checks"]
    assert response.status == (200 if set(found.values()) == {"ok"} else 503)
    return found


async def test_concurrent_probes_share_one_run_also_if_one_of_them_gives_up() -> None:
    check = Waiting()
    probed = api(check, Stop())
    probes = [asyncio.create_task(checks(probed)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    probes[0].cancel()
    await asyncio.sleep(0)
    check.through.set()
    assert await asyncio.gather(*probes[1:]) == [{"check": "ok"}] * 2
    assert check.count == 1


async def test_probe_of_a_check_that_hangs_is_answered_in_time() -> None:
    async with asyncio.timeout(2):
        assert "no answer" in (await checks(api(Waiting(), Stop())))["check"]


async def test_consumer_that_stops_is_not_ready() -> None:
    check, stop = Waiting(), Stop()
    check.through.set()
    stop.set()
    assert await checks(api(check, stop)) == {"check": "ok", "process": "is stopping"}
