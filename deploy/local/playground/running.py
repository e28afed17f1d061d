"""The playground beside the processes of one run: its port, and what it calls and breaks."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from deploy.client.transport import Service
from deploy.local import ports
from deploy.local.audit import ADMIN, settings_of
from deploy.local.configuration import PLAYGROUND_PORT, Configuration
from deploy.local.folder import Folder
from deploy.local.playground.application import HOST, serving
from deploy.local.playground.books import Books
from deploy.local.playground.faults import Faults
from deploy.local.playground.pages import Playground
from deploy.local.playground.shop import Shop, Token
from deploy.local.supervisor import Part, Say
from deploy.local.token import issuer_of


def choose_port(configuration: Configuration, folder: Folder) -> int:
    """Return the port that is set; or else the last run's or the usual one, if it is free, or any other."""
    remembered = folder.remembered().get("playground_port")
    return ports.choose_again(configuration.playground_port, remembered, PLAYGROUND_PORT, configuration.wanted_ports)


@asynccontextmanager
async def playing(
    configuration: Configuration, folder: Folder, parts: Mapping[str, Part], console: str, say: Say
) -> AsyncIterator[str]:
    """Serve the playground of a run with these processes; yield its address."""
    port = choose_port(configuration, folder)
    urls = {service: configuration.url(service.value) for service in Service}
    token: Token | None = issuer_of(folder, configuration.issuer).token if configuration.jwt else None
    # No connection is kept: one to a killed process would be of no use.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        taken = folder.remembered().get("emptied", {})
        shop = Shop(urls, token, session, say, lambda emptied: folder.remember(emptied=emptied), taken)
        books = Books([*ADMIN, "audit", "--json"], lambda: os.environ | settings_of(folder.read_run()))
        async with serving(Playground(shop, Faults(parts, say), books, console, say), port):
            folder.remember(playground_port=port)
            yield f"http://{HOST}:{port}"
