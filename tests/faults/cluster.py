"""The whole platform as processes that a test can kill, pause and disconnect: Postgres, a broker and all services.

There are two order replicas. All connections to Postgres, and the order replicas' connections to the participants, go
through proxies of the test.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from tests.infrastructure.broker import declare_topic, wait_for
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import SETTINGS as POSTGRES_SETTINGS
from tests.infrastructure.postgres import answers, arguments, packaged_binaries, system_binaries, within_reach
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, migrate_service
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import eventually, free_port, wait_until

REPOSITORY = Path(__file__).parents[2]
PARTICIPANTS = ("product", "coupon", "balance")
REPLICAS = ("order-1", "order-2")
START_SECONDS = 60
LEASE_SECONDS = 1.5
# Short, so that a run of seconds covers what takes minutes in production.
SETTINGS = {
    "ORDER_LEASE_SECONDS": str(LEASE_SECONDS),
    "ORDER_SWEEP_INTERVAL_SECONDS": "0.3",
    "ORDER_EXPIRY_INTERVAL_SECONDS": "0.2",
    "ORDER_REQUEST_DEADLINE_SECONDS": "3",
    "ORDER_AUDIT_INTERVAL_SECONDS": "3",
    "ORDER_AUDIT_GRACE_SECONDS": "2",
    "RELAY_LEASE_SECONDS": "2",
    "RELAY_KAFKA_TIMEOUT_SECONDS": "3",
    "PYTHONUNBUFFERED": "1",
}


class OwnPostgres:
    """A Postgres server for this test; its data is kept between starts.

    `folder`: where its data goes, by default a new temporary folder. `settings` come after the tests' usual ones.
    """

    def __init__(self, reaper: Reaper, folder: Path | None = None, settings: Sequence[str] = ()) -> None:
        self._reaper = reaper
        self._settings = [*POSTGRES_SETTINGS, *settings]
        self._folder = folder or Path(tempfile.mkdtemp(prefix="order-platform-faults-"))
        if folder is None:
            reaper.folder(self._folder)
        self._binaries = system_binaries() or packaged_binaries()
        self._user = None
        if os.geteuid() == 0:  # Postgres refuses to run as root
            self._user = "nobody"
            self._folder.chmod(0o755)
            if self._binaries == packaged_binaries():
                self._binaries = within_reach(self._binaries, self._folder)
        self._data = self._folder / "data"
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, self._user)
        self._run("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._data), *arguments]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, capture_output=True)

    def start(self) -> None:
        """Start the server; after an immediate stop it recovers."""
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", "", *arguments(self._settings)]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command, user=self._user, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        self._reaper.process(self._server, signal.SIGQUIT)

    def wait(self) -> None:
        """Return once the server accepts connections."""
        wait_until(lambda: answers(self.url), START_SECONDS, "the own Postgres")

    def stop_immediately(self) -> None:
        """Stop the server like a crash, without notice to clients and without a checkpoint."""
        self.stop("immediate")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server in this mode of pg_ctl; `fast` ends all sessions."""
        self._run("pg_ctl", "stop", "-m", mode)
        assert self._server is not None
        self._server.wait()

    @property
    def runs(self) -> bool:
        """Return whether the server runs; without space for its log it ends."""
        return self._server is not None and self._server.poll() is None

    def program(self, name: str) -> str:
        """Return the path of one of the server's programs."""
        return str(self._binaries / name)


class EmbeddedBroker:
    """The local run's broker. A test may pause it, but not kill it: it would lose its data, unlike a real broker."""

    def __init__(self, reaper: Reaper) -> None:
        port = free_port()
        command = [sys.executable, "-m", "deploy.local.broker", "--port", str(port), "--topic", "orders.v1:4"]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL)
        reaper.process(self._process)
        self.address = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Return once the broker answers."""
        wait_for(self.address)

    def pause(self) -> None:
        """Pause it: it neither answers nor closes connections."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Resume it."""
        self._process.send_signal(signal.SIGCONT)


class Broker(Protocol):
    """A broker that a test may pause."""

    address: str

    def start(self) -> None:
        """Return once it answers."""

    def pause(self) -> None:
        """Pause it: it neither answers nor closes connections."""

    def wake(self) -> None:
        """Resume it."""


class Addresses:
    """A file for each service with its database's address, which may be replaced while the service runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def give(self, service: str, url: str) -> str:
        """Write a service's address, by renaming a new file; return the file's path."""
        path = self._folder / f"{service}.address"
        new = path.with_suffix(".new")
        new.write_text(url)
        new.rename(path)
        return str(path)


@dataclass
class Process:
    """One service's process; it keeps its port after a restart."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    reaper: Reaper
    source: Path = REPOSITORY  # of which version
    probes_port: int | None = None  # of its probes, if they have another one
    running: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.running is not None and self.running.poll() is None:
            return
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                cwd=self.source,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.reaper.process(self.running)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.running is not None
        self.running.send_signal(number)

    async def ended(self, seconds: float = 15) -> int:
        """Wait until the process ends; return its exit status."""
        running = self.running
        assert running is not None

        async def is_over() -> bool:
            return running.poll() is not None

        await eventually(is_over, seconds, f"the end of {self.name}")
        return int(running.returncode)

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the service reports that it is ready."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:

            async def is_ready() -> bool:
                assert self.running is not None
                assert self.running.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
                try:
                    async with session.get(f"http://127.0.0.1:{self.probes_port or self.port}/readyz") as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await eventually(is_ready, seconds, f"{self.name} ready")


@dataclass
class Cluster:
    """The running processes, and the proxies between them."""

    postgres: OwnPostgres
    database: Database
    broker: Broker
    processes: dict[str, Process]
    ways: dict[str, Proxy]
    environment: dict[str, str]
    folder: Path
    sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)

    def client(self, name: str) -> Client:
        """Return a client that calls one process directly."""
        return Client(self.sessions[name], self.processes[name].url)

    def shop(self, replica: str = "order-1") -> Shop:
        """Return clients of all services, using one of the order replicas."""
        names = ("product", "coupon", "balance", "relay")
        return Shop(order=self.client(replica), **{name: self.client(name) for name in names})

    def logs(self) -> dict[str, str]:
        """Return the output of each process."""
        return {name: process.log.read_text() for name, process in self.processes.items()}


def _database_url(url: str, way: Proxy) -> str:
    """Return the address of the same database through another proxy."""
    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{way.port}"
    return parts._replace(netloc=place).geturl()


@asynccontextmanager
async def cluster(
    reaper: Reaper,
    folder: Path,
    clocks: Mapping[str, float] | None = None,
    *,
    postgres: OwnPostgres | None = None,
    broker: Broker | None = None,
    addresses: Addresses | None = None,
    runner: str | None = None,
    **settings: str,
) -> AsyncIterator[Cluster]:
    """Start everything. `clocks`: each process' clock error in seconds; `settings` replace SETTINGS.

    `postgres`, `broker`: servers that are not started yet, instead of the usual ones. `addresses`: where each service
    finds its database's address, instead of a proxy to the database. `runner`: a module that runs a service's.
    """
    postgres = postgres or OwnPostgres(reaper)
    postgres.start()
    broker = broker or EmbeddedBroker(reaper)
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(postgres.wait)
    async with AsyncExitStack() as stack:
        database = stack.enter_context(fresh_database(postgres.url))
        urls = {name: await asyncio.to_thread(migrate_service, name, database) for name in SCHEMAS}
        ways: dict[str, Proxy] = {}
        processes: dict[str, Process] = {}
        environment = os.environ | SETTINGS | settings | {"KAFKA_BOOTSTRAP_SERVERS": broker.address}
        await asyncio.to_thread(declare_topic, broker.address, "orders.v1", 4)
        bootstrap = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.relay", "bootstrap"),
            env=environment | {"RELAY_DATABASE_URL": urls["relay"]},
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        assert await bootstrap.wait() == 0
        for name in (*PARTICIPANTS, "relay", *REPLICAS):
            service = name.partition("-")[0]
            prefix = service.upper()
            port = free_port()
            own = {f"{prefix}_PORT": str(port)}
            if addresses is not None:
                own[f"{prefix}_DATABASE_URL_FILE"] = addresses.give(service, urls[service])
            elif service == "relay":
                # The relay's other faults have their own tests; here it is killed, and loses its broker.
                own["RELAY_DATABASE_URL"] = urls["relay"]
            else:
                way = ways[f"{name}→postgres"] = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
                own[f"{prefix}_DATABASE_URL"] = _database_url(urls[service], way)
            if service == "order":
                for participant in PARTICIPANTS:
                    upstream = processes[participant].port
                    way = await stack.enter_async_context(Proxy("127.0.0.1", upstream))
                    ways[f"{name}→{participant}"] = way
                    own[f"ORDER_{participant.upper()}_URL"] = way.url
            command = [sys.executable, "-m", *([runner] if runner else []), f"services.{service}"]
            if clocks and name in clocks:
                command.insert(2, "tests.faults.wrong_clock")
                own["CLOCK_OFF_SECONDS"] = str(clocks[name])
            log = folder / f"{name}.log"
            processes[name] = Process(name, command, environment | own, port, log, reaper)
        made = Cluster(postgres, database, broker, processes, ways, environment, folder)
        for name, process in processes.items():
            process.start()
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            session = aiohttp.ClientSession(process.url, connector=connector, timeout=aiohttp.ClientTimeout(total=10))
            made.sessions[name] = await stack.enter_async_context(session)
        await asyncio.gather(*(process.ready() for process in processes.values()))
        try:
            yield made
        finally:
            await _end(made)


async def _end(made: Cluster) -> None:
    """End all processes, in any state that a fault left."""
    made.broker.wake()
    for process in made.processes.values():
        if process.running is not None and process.running.poll() is None:
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)
    for process in made.processes.values():
        await process.ended()
