"""A replica that is drained in the gateway: new requests go to the other ones, and later to all again."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from deploy.upgrade.gateway import drained
from tests.infrastructure.gateway import SERVICES, gateway
from tests.infrastructure.raw_http import send
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.http.messages import get
from tests.integration.http.upstream import WHOLE, upstream

SECONDS = 10


async def test_gateway_uses_only_the_replicas_that_are_not_drained(reaper: Reaper) -> None:
    drained_one = f"http://127.0.0.1:{free_port()}"  # nothing listens there
    with upstream() as other, gateway(dict.fromkeys(SERVICES, drained_one), reaper) as running:
        url = running.url

        async def status() -> int:
            return (await send(url, get(WHOLE))).status

        assert await status() == 503
        await asyncio.to_thread(write, running.folder / "drained", urlsplit(other).netloc)
        running.reload()

        async def served() -> bool:
            return await status() == 200

        await eventually(served, SECONDS, "the other replica")
        for file in (running.folder / "drained").iterdir():
            file.unlink()
        running.reload()

        async def unavailable() -> bool:
            return await status() == 503

        await eventually(unavailable, SECONDS, "the drained replica again")


def write(folder: Path, place: str) -> None:
    """Write the files that say which replicas of the balance service are in use."""
    folder.mkdir()
    for name, text in drained("balance", ["replica"]).items():
        (folder / name).write_text(text.replace("replica:8004", place))
