"""The whole product as its users run it: `python -m deploy.local` on free ports, against the tests' own servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, migrate_service
from tests.infrastructure.waiting import eventually, free_port, wait_until

REPOSITORY = Path(__file__).parents[2]
SERVICES = tuple(SCHEMAS)
START_SECONDS = 60
STOP_SECONDS = 10  # what `make run` promises
RESTART_SECONDS = 30  # a service comes back in 2 on an idle machine; the supervisor waits longer from kill to kill
CLIENT_TIMEOUT_SECONDS = 2
# Short, so that tests see a dead process' sagas taken over, unpaid orders expire and slow clients cut off.
SETTINGS = {
    "ORDER_LEASE_SECONDS": "2",
    "ORDER_EXPIRY_INTERVAL_SECONDS": "0.2",
    "BALANCE_ACCESS_LOG": "all",  # a trace shows that it was passed on
    **{f"{service.upper()}_CLIENT_TIMEOUT_SECONDS": str(CLIENT_TIMEOUT_SECONDS) for service in SERVICES},
}


@dataclass(frozen=True, slots=True)
class Stack:
    """Five services under their supervisor."""

    database: Database
    kafka: str
    folder: Path
    supervisor: subprocess.Popen[bytes]

    def run(self) -> dict[str, Any]:
        """What the supervisor wrote of itself; empty until everything serves."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def url(self, service: str) -> str:
        """Where a service is."""
        return str(self.run()["services"][service]["url"])

    def pid(self, service: str) -> int | None:
        """The process that a service is right now."""
        found: int | None = self.run()["services"][service]["pid"]
        return found

    def log(self, service: str) -> str:
        """What a service has printed."""
        return (self.folder / "logs" / f"{service}.log").read_text()

    def signal(self, service: str, number: signal.Signals) -> int:
        """Send a signal to a service and return the pid that got it."""
        pid = self.pid(service)
        assert pid is not None
        os.kill(pid, number)
        return pid

    async def restarted(self, service: str, old: int) -> None:
        """Wait until another process than `old` serves."""

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


@dataclass(frozen=True, slots=True)
class Shop:
    """A client of each service."""

    order: Client
    product: Client
    coupon: Client
    balance: Client
    relay: Client


def plain(_service: str, session: aiohttp.ClientSession, url: str) -> Client:
    """A client that believes what it is answered."""
    return Client(session, url)


@asynccontextmanager
async def shopping(
    stack: Stack, make: Callable[[str, aiohttp.ClientSession, str], Client] = plain
) -> AsyncIterator[Shop]:
    """Clients of the stack's services, a connection a call: none is kept that a restart would break."""
    async with AsyncExitStack() as sessions:
        clients = {}
        for service in SERVICES:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            url = stack.url(service)
            session = aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=60))
            clients[service] = make(service, await sessions.enter_async_context(session), url)
        yield Shop(**clients)


@contextmanager
def running(database: Database, kafka: str, folder: Path, reaper: Reaper) -> Iterator[Stack]:
    """Start everything, and in the end see that Ctrl-C stops it in time and leaves nothing."""
    environment = os.environ | SETTINGS | {"LOCAL_DIR": str(folder), "KAFKA_BOOTSTRAP_SERVERS": kafka}
    for service in SERVICES:
        environment[f"{service.upper()}_PORT"] = str(free_port())
        environment["ORDER_ADMIN_PORT"] = str(free_port())
        environment[f"{service.upper()}_DATABASE_URL"] = migrate_service(service, database)
    # The database is new: whatever an earlier run left in a broker that stays is not this one's.
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
    stack = Stack(database, kafka, folder, supervisor)

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
