"""The whole platform as processes that a test can kill, pause and disconnect: Postgres, a broker, all services.

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
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.infrastructure.broker import declare_topic, wait_for
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import SETTINGS as POSTGRES_SETTINGS
from tests.infrastructure.postgres import answers, packaged_binaries, system_binaries, within_reach
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, migrate_service
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import eventually, free_port, wait_until
from tests.integration.relay.own_broker import OwnBroker

REPOSITORY = Path(__file__).parents[2]
PARTICIPANTS = ("product", "coupon", "balance")
REPLICAS = ("order-1", "order-2")
START_SECONDS = 60
LEASE_SECONDS = 1.5
# Short, so that a run of seconds sees what takes minutes in production.
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
    """A server of the test's own, its data kept from one start to the next."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._folder = Path(tempfile.mkdtemp(prefix="order-platform-faults-"))
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
        """Start the server; it recovers what an immediate stop left."""
        settings = [word for setting in POSTGRES_SETTINGS for word in ("-c", setting)]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", "", *settings]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command, user=self._user, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        self._reaper.process(self._server, signal.SIGQUIT)

    def wait(self) -> None:
        """Return once it takes connections."""
        wait_until(lambda: answers(self.url), START_SECONDS, "the own Postgres")

    def stop_immediately(self) -> None:
        """Stop it as a crash would: nobody is told, nothing is written."""
        self._run("pg_ctl", "stop", "-m", "immediate")
        assert self._server is not None
        self._server.wait()


class EmbeddedBroker:
    """The broker of the local run. It may be paused; killed it would forget everything, which no real one does."""

    def __init__(self, reaper: Reaper) -> None:
        port = free_port()
        command = [sys.executable, "-m", "deploy.local.broker", "--port", str(port), "--topic", "orders.v1:4"]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL)
        reaper.process(self._process)
        self.address = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Return once it answers."""
        wait_for(self.address)

    def pause(self) -> None:
        """Let it neither answer nor hang up."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


@dataclass
class Process:
    """One service's process; started again it keeps its port."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    reaper: Reaper
    running: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.running is not None and self.running.poll() is None:
            return
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, env=dict(self.environment), cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )
        self.reaper.process(self.running)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.running is not None
        self.running.send_signal(number)

    async def ended(self, seconds: float = 15) -> int:
        """Wait for its end and return its exit status."""
        running = self.running
        assert running is not None

        async def is_over() -> bool:
            return running.poll() is not None

        await eventually(is_over, seconds, f"the end of {self.name}")
        return int(running.returncode)

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until it says that it can serve."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:

            async def is_ready() -> bool:
                assert self.running is not None
                assert self.running.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
                try:
                    async with session.get(f"{self.url}/readyz") as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await eventually(is_ready, seconds, f"{self.name} ready")


@dataclass
class Cluster:
    """What runs, and the ways between."""

    postgres: OwnPostgres
    database: Database
    broker: EmbeddedBroker | OwnBroker
    processes: dict[str, Process]
    ways: dict[str, Proxy]
    environment: dict[str, str]
    folder: Path
    sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)

    def client(self, name: str) -> Client:
        """A client of one process, straight to it."""
        return Client(self.sessions[name], self.processes[name].url)

    def shop(self, replica: str = "order-1") -> Shop:
        """Clients of all services, by one of the order replicas."""
        names = ("product", "coupon", "balance", "relay")
        return Shop(order=self.client(replica), **{name: self.client(name) for name in names})

    def logs(self) -> dict[str, str]:
        """What each process has printed."""
        return {name: process.log.read_text() for name, process in self.processes.items()}


def _database_url(url: str, way: Proxy) -> str:
    """The same database by another way."""
    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{way.port}"
    return parts._replace(netloc=place).geturl()


@asynccontextmanager
async def cluster(
    reaper: Reaper,
    folder: Path,
    clocks: Mapping[str, float] | None = None,
    *,
    real_broker: bool = False,
    **settings: str,
) -> AsyncIterator[Cluster]:
    """Start everything. `clocks`: by how many seconds which process' clock is wrong; `settings` replace SETTINGS."""
    postgres = OwnPostgres(reaper)
    postgres.start()
    broker = OwnBroker(reaper) if real_broker else EmbeddedBroker(reaper)
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(postgres.wait)
    async with AsyncExitStack() as stack:
        database = stack.enter_context(fresh_database(postgres.url))
        urls = {name: await asyncio.to_thread(migrate_service, name, database) for name in SCHEMAS}
        ways: dict[str, Proxy] = {}
        processes: dict[str, Process] = {}
        environment = os.environ | SETTINGS | settings | {"KAFKA_BOOTSTRAP_SERVERS": broker.address}
        environment["RELAY_DATABASE_URL"] = urls["relay"]
        await asyncio.to_thread(declare_topic, broker.address, "orders.v1", 4)
        bootstrap = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.relay",
            "bootstrap",
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        assert await bootstrap.wait() == 0
        for name in (*PARTICIPANTS, "relay", *REPLICAS):
            service = name.partition("-")[0]
            prefix = service.upper()
            way = ways[f"{name}→postgres"] = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
            port = free_port()
            own = {f"{prefix}_PORT": str(port), f"{prefix}_DATABASE_URL": _database_url(urls[service], way)}
            if service == "relay":
                # Its own faults have their own tests; here it is killed, and its broker taken away.
                own["RELAY_DATABASE_URL"] = urls["relay"]
                del ways[f"{name}→postgres"]
            if service == "order":
                for participant in PARTICIPANTS:
                    upstream = processes[participant].port
                    way = await stack.enter_async_context(Proxy("127.0.0.1", upstream))
                    ways[f"{name}→{participant}"] = way
                    own[f"ORDER_{participant.upper()}_URL"] = way.url
            command = [sys.executable, "-m", f"services.{service}"]
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
    """End all processes, whatever state a fault left them in."""
    made.broker.wake()
    for process in made.processes.values():
        if process.running is not None and process.running.poll() is None:
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)
    for process in made.processes.values():
        await process.ended()
