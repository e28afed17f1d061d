"""The platform that the faults strike: all services as processes, servers of its own, and Prometheus."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg

from tests.alerts.faults.prometheus import Prometheus, Targets
from tests.alerts.faults.spare import Spare, spare
from tests.drills.load import AGAIN_SECONDS, LoadAtReplicas
from tests.drills.platform import start_consumer
from tests.faults.cluster import REPLICAS, Addresses, Cluster, cluster
from tests.faults.process import REPOSITORY
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.shopping import an_order, new_id

TOPIC = "orders.v1"
SETTINGS = {
    "ORDER_SAGAS_MAX": "16",  # so that a few customers are too many
    "ORDER_PAYMENT_TIMEOUT_SECONDS": "3",
    "RELAY_TOPIC_REPLICATION": "1",  # there is one broker
}
CONNECTIONS_MAX = 200


@dataclass
class Platform:
    """The running platform."""

    cluster: Cluster
    postgres: OwnPostgres
    broker: OwnBroker
    load: LoadAtReplicas
    spare: Spare
    prometheus: Prometheus
    listening: Proxy  # through which the relay gets notifications
    operator: asyncpg.Connection  # a superuser's

    @property
    def places(self) -> Mapping[str, str]:
        """Return what labels name: the address of each process, and the files of the spare's certificate."""
        processes = {name: f"127.0.0.1:{process.port}" for name, process in self.cluster.processes.items()}
        own = {self.spare.process.name: self.spare.address}
        return {**processes, **own, "certificate": self.spare.certificate, "key": self.spare.key}

    @asynccontextmanager
    async def buying(self, customers: int) -> AsyncIterator[None]:
        """Let customers buy without pause. All that they began must end well after the body, when the fault is over."""
        buying = asyncio.create_task(self.load.buy(customers))
        try:
            yield
        finally:
            self.load.end()
            await buying

    @asynccontextmanager
    async def calling(self, call: Callable[[], Awaitable[object]], callers: int) -> AsyncIterator[None]:
        """Let callers send the same request again and again, whatever is answered."""

        async def repeat() -> None:
            while True:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await call()
                await asyncio.sleep(AGAIN_SECONDS)

        tasks = [asyncio.create_task(repeat()) for _ in range(callers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def ordering(self, callers: int) -> AsyncIterator[None]:
        """Let each caller repeat one order at one replica, whatever is answered."""
        body = an_order(*self.load.a_customer())

        async with AsyncExitStack() as stack:
            for number in range(callers):
                replica = self.cluster.client(REPLICAS[number % len(REPLICAS)])
                headers = {"Idempotency-Key": new_id("key")}
                call = partial(replica.call, "POST", "/v1/orders", body, headers=headers)
                await stack.enter_async_context(self.calling(call, 1))
            yield

    async def killed(self, name: str) -> None:
        """Kill a process without notice."""
        self.cluster.processes[name].send(signal.SIGKILL)
        await self.cluster.processes[name].ended()

    async def started(self, name: str) -> None:
        """Start a process; return when it is ready."""
        self.cluster.processes[name].start()
        await self.cluster.processes[name].ready()

    async def relay_command(self, *arguments: str) -> None:
        """Run one of the relay's commands, as an operator does."""
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            env=dict(self.cluster.processes["relay"].environment),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await command.communicate()
        assert command.returncode == 0, printed.decode()


@asynccontextmanager
async def platform(reaper: Reaper, folder: Path) -> AsyncIterator[Platform]:
    """Start everything, and Prometheus last."""
    postgres = OwnPostgres(reaper, settings=(f"max_connections={CONNECTIONS_MAX}",))
    broker = OwnBroker(reaper)
    made = cluster(
        reaper,
        folder,
        None,
        postgres=postgres,
        broker=broker,
        addresses=None,
        runner="tests.alerts.faults.scale",
        security=None,
        forked=False,
        shards=(),
        own_settings=None,
        **SETTINGS,
    )
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        running = await stack.enter_async_context(made)
        await start_consumer(running, reaper, Addresses(folder), folder)
        listening = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
        await _listen_through(running, listening)
        further = await stack.enter_async_context(spare(running, reaper, folder, session))
        load = LoadAtReplicas(clients=running.client, sessions=partial(running.session, REPLICAS[0]))
        await load.prepare()
        prometheus = await Prometheus.start(_targets(running, further), folder / "prometheus", reaper, session)
        operator = await asyncpg.connect(running.database.url)
        stack.push_async_callback(operator.close)
        yield Platform(running, postgres, broker, load, further, prometheus, listening, operator)


async def _listen_through(running: Cluster, proxy: Proxy) -> None:
    """Let the relay's connection for notifications, and no other, go through a proxy."""
    relay = running.processes["relay"]
    url = relay.environment["RELAY_DATABASE_URL"].replace(f":{running.postgres.port}/", f":{proxy.port}/")
    relay.environment = {**relay.environment, "RELAY_LISTEN_DATABASE_URL": url}
    relay.send(signal.SIGTERM)
    await relay.ended()
    relay.start()
    await relay.ready()


def _targets(running: Cluster, further: Spare) -> list[Targets]:
    jobs: dict[str, list[str]] = {}
    for name, process in running.processes.items():
        if process is not further.process:
            jobs.setdefault(name.partition("-")[0], []).append(f"127.0.0.1:{process.port}")
    return [Targets(job, found) for job, found in jobs.items()] + [Targets("product", [further.address], tls=True)]
