"""A backup is restored into a fresh cluster, as docs/runbook.md says, while customers wait."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.drills.drill import Drill, now
from tests.drills.platform import POSTGRES_SETTINGS, Platform
from tests.faults.cluster import REPOSITORY, OwnPostgres
from tests.infrastructure.databases import Database, create_roles

SERVICES = ("order", "product", "coupon", "balance", "relay")


async def fresh_cluster(platform: Platform) -> float:
    """Restore everything to one moment. What was acknowledged after it is lost by intention."""
    kept = _acknowledged(platform)  # before: the dump shows the time of its begin
    dump = await _dump(platform)
    await _stop(platform)
    _forget_others(platform, kept)
    await _restore(platform, dump)
    await _start(platform)
    return now()


def _acknowledged(platform: Platform) -> set[str]:
    return {one.order_id for one in platform.load.purchases if one.is_acknowledged and one.order_id is not None}


def _forget_others(platform: Platform, kept: set[str]) -> None:
    """Drop what was acknowledged after the backup. Customers without a final answer repeat their requests."""
    purchases = platform.load.purchases
    purchases[:] = [one for one in purchases if not one.is_acknowledged or one.order_id in kept]


async def _dump(platform: Platform) -> Path:
    path = platform.folder / "dump"
    await _run(platform.postgres.program("pg_dump"), "--format=custom", f"--file={path}", _url(platform))
    return path


def _url(platform: Platform) -> str:
    return platform.cluster.database.url


async def _stop(platform: Platform) -> None:
    processes = platform.cluster.processes.values()
    for process in processes:
        process.send(signal.SIGTERM)
    await asyncio.gather(*(process.ended() for process in processes))


async def _start(platform: Platform) -> None:
    """Start everything, and declare that this Kafka belongs to the restored database."""
    for process in platform.cluster.processes.values():
        process.start()
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": platform.broker.address}
    environment["RELAY_DATABASE_URL"] = platform.cluster.database.as_role("relay_service")
    await _run(sys.executable, "-m", "services.relay", "bootstrap", environment=environment)


async def _restore(platform: Platform, dump: Path) -> None:
    """Create a cluster, its roles and the database, and lead every service to it."""
    postgres = OwnPostgres(platform.reaper, None, POSTGRES_SETTINGS)
    postgres.start()
    await asyncio.to_thread(postgres.wait)
    name = urlsplit(_url(platform)).path[1:]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    database = Database(urlsplit(postgres.url)._replace(path=f"/{name}").geturl())
    await asyncio.to_thread(create_roles, database.url)
    await _run(
        postgres.program("pg_restore"), "--exit-on-error", "--clean", "--if-exists", "-d", database.url, str(dump)
    )
    platform.cluster.postgres, platform.cluster.database = postgres, database
    for service in SERVICES:
        platform.addresses.give(service, database.as_role(f"{service}_service"))
    platform.addresses.give("consumer", database.as_role("platform_consumer"))


async def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"


DRILLS: Sequence[Drill] = [
    Drill(
        "restore-fresh",
        "a dump is restored into a fresh cluster; later orders are lost by intention",
        fresh_cluster,
        in_short=True,
    ),
]
