"""The whole platform as processes that a test can kill, pause and disconnect: Postgres, a broker and all services.

There are two order replicas. All connections to Postgres, and the order replicas' connections to the participants, go
through proxies of the test.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from tests.faults.process import REPOSITORY, Process, Security, command_ended
from tests.infrastructure.broker import declare_topic, wait_for
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, Client, migrate_service
from tests.infrastructure.stack import Shop
from tests.infrastructure.waiting import free_port

PARTICIPANTS = ("product", "coupon", "balance")
REPLICAS = ("order-1", "order-2")
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


class Server(Protocol):
    """A Postgres server; `url` is a superuser's."""

    url: str
    port: int

    def start(self) -> None:
        """Start it."""

    def wait(self) -> None:
        """Return once it accepts connections."""


class Addresses:
    """A file for each service with its database's address, which may be replaced while the service runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, service: str) -> Path:
        """Return a service's file."""
        return self._folder / f"{service}.address"

    def give(self, service: str, url: str) -> str:
        """Write a service's address, by renaming a new file; return the file's path."""
        path = self.path(service)
        new = path.with_suffix(".new")
        new.write_text(url)
        new.rename(path)
        return str(path)


@dataclass
class Cluster:
    """The running processes, and the proxies between them."""

    postgres: Server
    database: Database
    broker: Broker
    processes: dict[str, Process]
    ways: dict[str, Proxy]
    environment: dict[str, str]
    folder: Path
    sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)
    security: Security | None = None

    def client(self, name: str) -> Client:
        """Return a client that calls one process directly."""
        return Client(self.sessions[name], self.processes[name].url)

    def session(self, name: str, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a new session of a customer with one process; its requests pass these middlewares."""
        url = self.processes[name].url
        return self.security.session(url, *middlewares) if self.security else _session(url, *middlewares)

    def shop(self, replica: str = "order-1") -> Shop:
        """Return clients of all services, using one of the order replicas."""
        names = ("product", "coupon", "balance", "relay")
        return Shop(order=self.client(replica), **{name: self.client(name) for name in names})

    def logs(self) -> dict[str, str]:
        """Return the output of each process."""
        return {name: process.log.read_text() for name, process in self.processes.items()}


def _participants_urls(
    replica: str, ways: Mapping[str, Proxy], shards: Sequence[Process], scheme: str
) -> dict[str, str]:
    """Return the settings by which an order replica finds the participants."""
    urls = {
        f"ORDER_{name.upper()}_URL": f"{scheme}://127.0.0.1:{ways[f'{replica}→{name}'].port}"
        for name in PARTICIPANTS
        if f"{replica}→{name}" in ways
    }
    return urls | ({"ORDER_PRODUCT_URLS": " ".join(shard.internal_url for shard in shards)} if shards else {})


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
    postgres: Server | None = None,
    broker: Broker | None = None,
    addresses: Addresses | None = None,
    runner: str | None = None,
    security: Security | None = None,
    forked: bool = False,
    shards: Sequence[Process] = (),
    own_settings: Mapping[str, Mapping[str, str]] | None = None,
    **settings: str,
) -> AsyncIterator[Cluster]:
    """Start everything. `clocks`: each process' clock error in seconds; `settings` replace SETTINGS.

    `postgres`, `broker`: servers that are not started yet, instead of the usual ones. `addresses`: where each service
    finds its database's address, instead of a proxy to the database. `runner`: a module that runs a service's.
    `security`: of jwt mode, for which `settings` are. `forked`: whether processes may start as forks. `shards`: running
    product shards of several cells, instead of a product service. `own_settings`: of single processes, by name.
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
        tls = security.tls if security else None
        environment = os.environ | SETTINGS | settings | {"KAFKA_BOOTSTRAP_SERVERS": broker.address}
        await asyncio.to_thread(declare_topic, broker.address, settings.get("RELAY_TOPIC", "orders.v1"), 4)
        own_relay = environment | {"RELAY_DATABASE_URL": urls["relay"]}
        await command_ended("services.relay", "bootstrap", environment=own_relay, reaper=reaper, forked=forked)
        participants = [name for name in PARTICIPANTS if name != "product" or not shards]
        for name in (*participants, "relay", *REPLICAS):
            service = name.partition("-")[0]
            prefix = service.upper()
            port, internal_port = free_port(), free_port() if security else None
            own = {f"{prefix}_PORT": str(port)}
            if internal_port is not None:
                own[f"{prefix}_INTERNAL_PORT"] = str(internal_port)
            if addresses is not None:
                own[f"{prefix}_DATABASE_URL_FILE"] = addresses.give(service, urls[service])
            elif service == "relay":
                # The relay's other faults have their own tests; here it is killed, and loses its broker.
                own["RELAY_DATABASE_URL"] = urls["relay"]
            else:
                way = ways[f"{name}→postgres"] = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
                own[f"{prefix}_DATABASE_URL"] = _database_url(urls[service], way)
            if service == "order":
                for participant in participants:
                    upstream = processes[participant].internal_port or processes[participant].port
                    ways[f"{name}→{participant}"] = await stack.enter_async_context(Proxy("127.0.0.1", upstream))
                own |= _participants_urls(name, ways, shards, "https" if tls else "http")
            command = [sys.executable, "-m", *([runner] if runner else []), f"services.{service}"]
            if clocks and name in clocks:
                command.insert(2, "tests.faults.wrong_clock")
                own["CLOCK_OFF_SECONDS"] = str(clocks[name])
            own |= (own_settings or {}).get(name, {})
            made_of = (name, command, environment | own, port, folder / f"{name}.log", reaper)
            processes[name] = Process(*made_of, internal_port=internal_port, tls=tls, forked=forked)
        made = Cluster(postgres, database, broker, processes, ways, environment, folder, security=security)
        for name, process in processes.items():
            process.start()
            made.sessions[name] = await stack.enter_async_context(made.session(name))
        await asyncio.gather(*(process.ready() for process in processes.values()))
        try:
            yield made
        finally:
            await _end(made)


def _session(url: str, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=10)
    return aiohttp.ClientSession(url, connector=connector, timeout=timeout, middlewares=middlewares)


async def _end(made: Cluster) -> None:
    """End all processes, in any state that a fault left."""
    made.broker.wake()
    for process in made.processes.values():
        if process.running is not None and process.running.poll() is None:
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)
    for process in made.processes.values():
        await process.ended()
