"""A further replica of the product service: with TLS, in jwt mode, with few file descriptors and a log that is read."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.faults.cluster import Cluster
from tests.faults.process import Process
from tests.infrastructure.authority import Authority
from tests.infrastructure.issuer import RSA, RULES, claims, jwk_set, sign
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_ports

DESCRIPTORS = 256  # of which the service leaves some for its database and log, so 96 clients may connect
VALID_DAYS = 30.0
START_SECONDS = 30
NAME = "product-2"


class Log:
    """A pipe with a reader that a fault can take away."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor: int | None = None
        self.last = b""
        self.read()

    def read(self) -> None:
        """Read all that is written from now on."""
        self._descriptor = descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(descriptor, self._drain, descriptor)

    def leave(self) -> None:
        """Read no more: every write fails."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _drain(self, descriptor: int) -> None:
        if found := os.read(descriptor, 1 << 20):
            self.last = found[-2000:]
        else:  # the service has ended: nothing more comes, and the pipe stays readable
            self.leave()


class Issuer:
    """Serves the keys of the tokens, unless a fault takes it away."""

    def __init__(self) -> None:
        self.is_away = False

    @asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[str]:
        """Serve; yield the URL of the keys."""

        async def keys(_request: web.Request) -> web.Response:
            return web.Response(status=503) if self.is_away else web.Response(body=jwk_set(RSA))

        app = web.Application()
        app.router.add_get("/jwks", keys)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}/jwks"
        finally:
            await runner.cleanup()


@dataclass
class Spare:
    """The replica and what it depends on."""

    process: Process
    address: str  # where Prometheus finds it
    certificate: str
    key: str
    authority: Authority
    issuer: Issuer
    log: Log
    session: aiohttp.ClientSession

    async def serves(self) -> bool:
        """Return whether it is ready."""
        assert self.process.running is not None
        assert self.process.running.poll() is None, self.log.last
        try:
            async with self.session.get(f"https://{self.address}/readyz", ssl=False) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def ask(self) -> None:
        """Send a request, which the service logs."""
        now = time.time()
        token = sign(claims(nbf=now - 60, exp=now + 600))
        headers = {"Authorization": f"Bearer {token}"}
        url = f"https://127.0.0.1:{self.process.port}/v1/products"
        async with self.session.get(url, headers=headers, ssl=False) as response:
            await response.read()

    def spoil(self) -> None:
        """Replace the certificate by a file that is none."""
        Path(self.certificate).write_text("no certificate")

    def renew(self, days: float) -> None:
        """Replace the certificate by one that is valid for so many days."""
        self.authority.issue("spare", days=days)


def _secret(folder: Path) -> str:
    path = folder / "spare.secrets"
    path.write_text(f"order {'a' * 40}\n")
    return str(path)


@asynccontextmanager
async def spare(running: Cluster, reaper: Reaper, folder: Path, session: aiohttp.ClientSession) -> AsyncIterator[Spare]:
    """Start the replica. Prometheus shows when it answers."""
    authority, issuer, log = Authority(folder), Issuer(), Log(folder / "spare.log")
    certificate, key = authority.issue("spare", days=VALID_DAYS)
    port, internal_port, issuer_port = free_ports(3)
    product = running.processes["product"]
    command = ["prlimit", f"--nofile={DESCRIPTORS}", sys.executable, "-m", "tests.alerts.faults.scale"]
    async with issuer.serving(issuer_port) as keys:
        environment = {
            **product.environment,
            "PRODUCT_PORT": str(port),
            "PRODUCT_INTERNAL_PORT": str(internal_port),
            "PRODUCT_TLS_CERTIFICATE_FILE": certificate,
            "PRODUCT_TLS_KEY_FILE": key,
            "PRODUCT_INTERNAL_SECRET_FILE": _secret(folder),
            "PRODUCT_ACCESS_LOG": "all",
            "AUTH_MODE": "jwt",
            "AUTH_ISSUER": RULES.issuer,
            "AUTH_AUDIENCE": RULES.audience,
            "AUTH_JWKS": keys,
        }
        process = Process(NAME, [*command, "services.product"], environment, port, log.path, reaper)
        process.start()
        running.processes[NAME] = process  # which ends with the others
        made = Spare(process, f"127.0.0.1:{internal_port}", certificate, key, authority, issuer, log, session)
        await eventually(made.serves, START_SECONDS, "the spare replica")
        try:
            yield made
        finally:
            log.leave()
