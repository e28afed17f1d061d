"""The whole product as users run it: `python -m deploy.local` on free ports, with the tests' servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import psutil

from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, migrate_service
from tests.infrastructure.waiting import eventually, free_ports, wait_until

REPOSITORY = Path(__file__).parents[2]
SERVICES = tuple(SCHEMAS)
START_SECONDS = 60
STOP_SECONDS = 10  # the limit that `make run` promises
RESTART_SECONDS = 30  # a service restarts in 2 s on an idle machine; the supervisor's pause grows with each kill
CLIENT_TIMEOUT_SECONDS = 2
# Short, so that within a test dead processes' sagas are taken over, orders expire and slow clients are cut off.
SETTINGS = {
    "ORDER_LEASE_SECONDS": "2",
    "ORDER_EXPIRY_INTERVAL_SECONDS": "0.2",
    "BALANCE_ACCESS_LOG": "all",  # the log shows that a trace was passed on
    **{f"{service.upper()}_CLIENT_TIMEOUT_SECONDS": str(CLIENT_TIMEOUT_SECONDS) for service in SERVICES},
}


@dataclass(frozen=True, slots=True)
class Stack:
    """Five services under their supervisor."""

    database: Database
    kafka: str
    topic: str
    folder: Path
    supervisor: subprocess.Popen[bytes]

    def run(self) -> dict[str, Any]:
        """Return the supervisor's run.json; empty until everything is ready."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def url(self, service: str) -> str:
        """Return a service's URL."""
        return str(self.run()["services"][service]["url"])

    def pid(self, service: str) -> int | None:
        """Return a service's current pid."""
        found: int | None = self.run()["services"][service]["pid"]
        return found

    def log(self, service: str) -> str:
        """Return a service's output."""
        return (self.folder / "logs" / f"{service}.log").read_text()

    def signal(self, service: str, number: signal.Signals) -> int:
        """Send a signal to a service; return its pid."""
        pid = self.pid(service)
        assert pid is not None
        os.kill(pid, number)
        return pid

    async def restarted(self, service: str, old: int) -> None:
        """Wait until a process other than `old` is ready."""

        async def serves() -> bool:
            if self.pid(service) in (None, old):
                return False
            async with aiohttp.ClientSession() as session:
                try:
                    async with session.get(f"{self.url(service)}/readyz") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

        await eventually(serves, RESTART_SECONDS, f"the restart of {service}")


RunStack = Callable[..., AbstractContextManager[Stack]]


@dataclass(frozen=True, slots=True)
class Shop:
    """Return a client of each service."""

    order: Client
    product: Client
    coupon: Client
    balance: Client
    relay: Client


def plain(_service: str, session: aiohttp.ClientSession, url: str) -> Client:
    """Return a client that does not check the answers."""
    return Client(session, url)


@asynccontextmanager
async def shopping(
    stack: Stack, make: Callable[[str, aiohttp.ClientSession, str], Client] = plain
) -> AsyncIterator[Shop]:
    """Yield clients of the stack's services. Each call has its own connection, so a restart breaks none."""
    async with AsyncExitStack() as sessions:
        clients = {}
        for service in SERVICES:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            url = stack.url(service)
            session = aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=60))
            clients[service] = make(service, await sessions.enter_async_context(session), url)
        yield Shop(**clients)


@contextmanager
def running(database: Database, kafka: str, folder: Path, reaper: Reaper, *, auth: str = "open") -> Iterator[Stack]:
    """Start everything; at the end check that Ctrl-C stops it in time and leaves no process."""
    environment = os.environ | SETTINGS | {"LOCAL_DIR": str(folder), "KAFKA_BOOTSTRAP_SERVERS": kafka, "AUTH": auth}
    del environment["AUTH_MODE"]  # it follows from AUTH
    settings = ["ISSUER_PORT", "ORDER_ADMIN_PORT", "RELAY_ADMIN_PORT", "CONSOLE_PORT"]
    settings += [f"{service.upper()}_{kind}" for service in SERVICES for kind in ("PORT", "INTERNAL_PORT")]
    environment |= zip(settings, map(str, free_ports(len(settings))), strict=True)
    # Of its own: with a topic that another stack's relay uses as well, that relay finds foreign positions, and stops.
    topic = environment["RELAY_TOPIC"] = f"orders.test-{uuid4().hex}"
    for service in SERVICES:
        environment[f"{service.upper()}_DATABASE_URL"] = migrate_service(service, database)
        environment[f"MIGRATE_{service.upper()}_DATABASE_URL"] = database.as_role(f"{service}_migrator")
    subprocess.run(
        [sys.executable, "-m", "services.relay", "bootstrap"],
        env=environment,
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with (folder / "supervisor.log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "--no-demo"],
            env=environment,
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    reaper.process(supervisor)
    stack = Stack(database, kafka, topic, folder, supervisor)

    def is_up() -> bool:
        assert supervisor.poll() is None, (folder / "supervisor.log").read_text()
        return bool(stack.run())

    wait_until(is_up, START_SECONDS, "the start of all services")
    yield stack
    _stop(stack)


def _stop(stack: Stack) -> None:
    children = psutil.Process(stack.supervisor.pid).children(recursive=True)
    stack.supervisor.send_signal(signal.SIGINT)
    status = stack.supervisor.wait(STOP_SECONDS)
    left = [child for child in children if child.is_running()]
    assert (status, left) == (0, []), (stack.folder / "supervisor.log").read_text()
