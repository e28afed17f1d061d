"""The platform that drills strike: two order replicas, the other services, a consumer, and servers of its own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from tests.drills.disks import Disk, small_disk
from tests.drills.load import LoadAtReplicas, Purchase
from tests.drills.verdict import Records, Verdict, audited, connected, judge
from tests.faults.cluster import REPLICAS, Addresses, Broker, Cluster, Server, cluster
from tests.faults.process import Process, Security, command_ended
from tests.infrastructure.databases import Database
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.pgbouncer import PgBouncer
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sagas import UNPUBLISHED
from tests.infrastructure.waiting import eventually, free_port

# Few connections and little log, so that a drill can use them up. A login may have a quarter of the connections.
POSTGRES_SETTINGS = (
    "max_connections=120",
    "superuser_reserved_connections=3",
    "min_wal_size=32MB",
    "max_wal_size=64MB",
)
# All drills together write half a gigabyte; a file that is mounted takes only the space that is written to it.
POSTGRES_MEGABYTES, KAFKA_MEGABYTES = 4000, 1000
SPARE_MEGABYTES = 200  # with less before a drill, its fault could be a full disk, whatever else it does
RECOVER_SECONDS = 60  # after this time a drill has failed, whatever it allows


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a drill takes: seconds of load before and after the fault, seconds of a fault that lasts, customers."""

    around_seconds: float
    fault_seconds: float
    customers: int


SHORT = Pace(0.7, 2.5, 6)
LONG = Pace(5.0, 10.0, 16)


@dataclass(slots=True)
class Platform:
    """The running platform, its load and the files of its addresses."""

    cluster: Cluster
    load: LoadAtReplicas
    addresses: Addresses
    reaper: Reaper
    folder: Path
    pace: Pace
    disks: dict[str, Disk | str]
    pooler: PgBouncer | None = None

    @property
    def postgres(self) -> OwnPostgres:
        """Return its Postgres server, if it is a single one."""
        assert isinstance(self.cluster.postgres, OwnPostgres)
        return self.cluster.postgres

    @property
    def broker(self) -> Broker:
        """Return its broker."""
        return self.cluster.broker

    def process(self, name: str) -> Process:
        """Return the process of a service or replica."""
        return self.cluster.processes[name]

    def disk(self, server: str) -> Disk:
        """Return the small disk of a server. Raises Skipped if this machine can't mount one."""
        disk = self.disks[server]
        if isinstance(disk, str):
            raise Skipped(disk)
        return disk

    def check_disks(self) -> None:
        """Fail if a server has little space before a drill begins: the drill would show a full disk."""
        for server, disk in self.disks.items():
            if isinstance(disk, Disk):
                left = disk.left_megabytes
                assert left >= SPARE_MEGABYTES, f"the disk of {server} has only {left} MB left"

    async def recovered(self, since: float) -> float:
        """Wait until everything is ready, each order replica has sold since `since` and no event waits.

        Return the seconds from `since` on.
        """
        async with asyncio.timeout(RECOVER_SECONDS):
            for name, process in self.cluster.processes.items():
                await process.ready(RECOVER_SECONDS)
                assert process.running is not None, name

            async def all_sell() -> bool:
                return all(self.load.answered.get(replica, 0) > since for replica in REPLICAS)

            await eventually(all_sell, RECOVER_SECONDS, "an order at each replica")
            sold = time.monotonic()
            if await waited_for_publication(self.cluster.database.url):
                sold = time.monotonic()
        return sold - since

    async def judge(self, purchases: Sequence[Purchase]) -> Verdict:
        """Compare all books with what customers were told, once nothing is in progress."""
        url = self.cluster.database.url
        return await judge(Records([url], url, url, partial(audited, self.cluster)), purchases)


async def waited_for_publication(url: str) -> bool:
    """Wait until the events that were committed by now are published; return whether some were not."""
    async with connected(url) as connection:
        last = await connection.fetchval("SELECT coalesce(max(outbox_id), 0) FROM orders.outbox")

        async def published() -> bool:
            return not await connection.fetchval(f"{UNPUBLISHED} AND outbox_id <= $1", last)

        if await published():
            return False
        return await eventually(published, RECOVER_SECONDS, "the publication of all events")


class Skipped(Exception):  # noqa: N818 - it is no error
    """A drill can't run on this machine; the text is the reason."""


@asynccontextmanager
async def platform(
    reaper: Reaper,
    folder: Path,
    pace: Pace,
    *,
    postgres: Server | None = None,
    broker: Broker | None = None,
    addresses: Callable[[Server], Addresses] | None = None,
    security: Security | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Platform]:
    """Start everything. `postgres`, `broker`: not started yet, instead of a real one on a small disk.

    `addresses`: where the services find the database of this server, if not directly. `security`: as for `cluster`.
    """
    disks: dict[str, Disk | str] = {}
    if postgres is None:
        disk = disks["postgres"] = small_disk(reaper, folder / "postgres-disk", POSTGRES_MEGABYTES)
        postgres = OwnPostgres(reaper, disk.folder if isinstance(disk, Disk) else None, POSTGRES_SETTINGS)
    if broker is None:
        kafka_disk = disks["kafka"] = small_disk(reaper, folder / "kafka-disk", KAFKA_MEGABYTES)
        log_dirs = {"log.dirs": str(kafka_disk.folder / "data")} if isinstance(kafka_disk, Disk) else {}
        broker = OwnBroker(reaper, instead=log_dirs)
    given = Addresses(folder) if addresses is None else addresses(postgres)
    made = cluster(
        reaper,
        folder,
        None,
        postgres=postgres,
        broker=broker,
        addresses=given,
        security=security,
        forked=False,
        shards=(),
        own_settings=None,
        **(settings or {}),
    )
    async with made as running, aiohttp.ClientSession() as session:
        await start_consumer(running, reaper, given, folder)
        running.sessions["consumer"] = session
        load = LoadAtReplicas(clients=running.client, sessions=partial(running.session, REPLICAS[0]))
        await load.prepare()
        yield Platform(running, load, given, reaper, folder, pace, disks)


async def start_consumer(running: Cluster, reaper: Reaper, addresses: Addresses, folder: Path) -> None:
    """Migrate and start the reference consumer."""
    settings = running.environment | {"CONSUMER_RELAY_URL": running.processes["relay"].url}
    running.processes["consumer"] = await consumer(running.database, settings, reaper, addresses, folder, forked=False)


async def consumer(
    database: Database,
    settings: Mapping[str, str],
    reaper: Reaper,
    addresses: Addresses,
    folder: Path,
    *,
    forked: bool,
) -> Process:
    """Return the reference consumer, which is ready. `settings` say what it reads."""
    port = free_port()
    environment = {
        **settings,
        "CONSUMER_PORT": str(port),
        "CONSUMER_DATABASE_URL_FILE": addresses.give("consumer", database.as_role("platform_consumer")),
        "CONSUMER_SESSION_SECONDS": "6",
    }
    own = {
        **environment,
        "CONSUMER_DATABASE_URL_FILE": addresses.give("migrator", database.as_role("platform_migrator")),
    }
    await command_ended("deploy.consumer", "migrate", environment=own, reaper=reaper, forked=forked)
    command = [sys.executable, "-m", "deploy.consumer"]
    process = Process("consumer", command, environment, port, folder / "consumer.log", reaper, forked=forked)
    process.start()
    await process.ready()
    return process
