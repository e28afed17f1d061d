"""The console reads each address of a name by itself, with TLS too."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from deploy.console.figures.replicas import Replica, Replicas
from deploy.console.figures.sampler import Sampler
from deploy.console.figures.scraping import scrape
from deploy.console.pages.services import statuses
from shared import tls
from tests.infrastructure.authority import Authority
from tests.infrastructure.waiting import free_port
from tests.integration.console.serving import console

NAME = "orders.test"
ADDRESSES = ("127.0.0.1", "127.0.0.2")  # of this machine
METRICS = "sagas_running 3\n"


async def metrics(_request: web.Request) -> web.Response:
    return web.Response(text=METRICS)


async def ready(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ready", "checks": {"database": "ok"}})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest_asyncio.fixture
async def port(authority: Authority) -> AsyncIterator[int]:
    """Serve two replicas at a port of two addresses, with a certificate for the name."""
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port, context = free_port(), tls.server(tls.TlsFiles(*authority.issue("orders", [NAME])))
    try:
        for address in ADDRESSES:
            await web.TCPSite(runner, address, port, ssl_context=context).start()
        yield port
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def http(authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    context = tls.client(tls.TlsFiles(authorities=str(authority.file)))()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def test_certificate_of_a_replica_is_for_the_name(port: int, http: aiohttp.ClientSession) -> None:
    replica = Replica("order", f"https://127.0.0.1:{port}", NAME)
    assert await scrape(http, replica) == METRICS
    for other in (None, "another.test"):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await scrape(http, replica._replace(hostname=other))


async def test_each_replica_behind_a_name_is_read_and_asked(port: int, http: aiohttp.ClientSession) -> None:
    async def lookup(_name: str) -> Sequence[str]:
        return ADDRESSES

    replicas = Replicas({"order": [f"https://{NAME}:{port}"]}, lookup)
    sampler = Sampler(replicas, partial(scrape, http))
    await replicas.round()
    await sampler.round()
    assert sampler.points[-1].figures["sagas.running"] == 6
    async with console() as browser:
        found = await statuses(dataclasses.replace(browser.parts, http=http, sampler=sampler))
    assert [(one.place, one.state) for one in found] == [(f"{address}:{port}", "ready") for address in ADDRESSES]
