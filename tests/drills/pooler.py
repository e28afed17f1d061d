"""PgBouncer in transaction mode between the services and Postgres."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from shared.postgres.connecting import HOT_SETTINGS, SESSION_SETTINGS
from tests.drills.drill import Drill, now
from tests.drills.platform import Pace, Platform, Skipped, platform
from tests.faults.cluster import REPLICAS, Addresses, Server
from tests.infrastructure.missing import find_program
from tests.infrastructure.pgbouncer import POOL_SIZE, PgBouncer
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import wait_until
from tests.runbook.blocks import blocks_by
from tests.runbook.shell import Shell

ROLES = ("order_service", "product_service", "coupon_service", "balance_service", "relay_service")
BUSY = (*REPLICAS, "product", "balance")  # a session without work is not checked
# A session is checked once a minute, if its work has not doubled by then.
REPORTED_SECONDS = 90
# Of these versions, prepared statements don't survive a transaction.
OLD = "1.18."
SERVICES = ("ORDER", "PRODUCT", "COUPON", "BALANCE", "RELAY", "CONSUMER")


class PooledAddresses(Addresses):
    """Leads everything through the pooler, except migrations and the relay's listening connection."""

    def __init__(self, folder: Path, pooler: PgBouncer) -> None:
        super().__init__(folder)
        self._pooler = pooler
        # The relay's command line reads its settings before the database is there.
        super().give("listen", "postgresql://nobody@127.0.0.1:1/none")

    def give(self, service: str, url: str) -> str:
        """Write a service's address."""
        if service == "relay":
            super().give("listen", url)
        return super().give(service, url if service == "migrator" else self._pooler.through(url))


@asynccontextmanager
async def pooled(reaper: Reaper, folder: Path, pace: Pace) -> AsyncIterator[Platform]:
    """Run the platform behind PgBouncer, with the settings of docs/runbook.md."""
    if find_program("pgbouncer") is None:
        raise Skipped("Debian's package pgbouncer is not installed")
    poolers: list[PgBouncer] = []

    def addresses(postgres: Server) -> Addresses:
        poolers.append(PgBouncer(reaper, postgres.port, folder / "pgbouncer"))
        poolers[0].start()
        return PooledAddresses(folder, poolers[0])

    settings = {f"{service}_STATEMENT_CACHE_SIZE": "0" for service in SERVICES}
    settings["RELAY_LISTEN_DATABASE_URL_FILE"] = str(folder / "listen.address")
    async with platform(reaper, folder, pace, addresses=addresses, settings=settings) as running:
        running.pooler = poolers[0]
        yield running


async def settings_given(platform: Platform) -> float:
    """Have sessions lose their settings, until each service reports it; then give them to the roles."""
    pooler = _pooler(platform)
    if not pooler.version.startswith(OLD):
        raise Skipped(f"PgBouncer is {pooler.version}, not {OLD}x")
    await asyncio.to_thread(pooler.reconnect)
    for name in BUSY:
        await asyncio.to_thread(_wait_for_report, platform.process(name).log)
    (block,) = blocks_by("tests/drills/pooler.py")
    folder = platform.folder / "operator"
    folder.mkdir()
    variables = {"ADMIN": platform.cluster.database.url, "POOLER": pooler.console}
    await Shell(folder, variables, sys.executable).run(block)
    for role in ROLES:
        await _check_all(pooler.through(platform.cluster.database.as_role(role)), role)
    return now()


def _wait_for_report(log: Path) -> None:
    wait_until(lambda: "session.settings_lost" in log.read_text(), REPORTED_SECONDS, f"the report in {log.name}")


async def _check_all(url: str, role: str) -> None:
    """Check the settings of every server connection of a login, by holding all of them at the same time."""
    needed = {**SESSION_SETTINGS, **HOT_SETTINGS}
    query = f"SELECT pg_backend_pid(), {', '.join(f'current_setting({name!r})' for name in needed)}"
    async with AsyncExitStack() as stack:
        servers: dict[int, dict[str, Any]] = {}
        for _ in range(POOL_SIZE):
            connection = await asyncpg.connect(url, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            row = await connection.fetchrow(query)
            assert row is not None
            pid, *values = row
            servers[pid] = dict(zip(needed, values, strict=True))
    assert len(servers) == POOL_SIZE, f"{len(servers)} server connections of {role}"
    wrong = {pid: found for pid, found in servers.items() if found != needed}
    assert not wrong, f"{role}: {wrong}"


async def killed(platform: Platform) -> float:
    """Kill the pooler, and start it again."""
    pooler = _pooler(platform)
    await asyncio.to_thread(pooler.kill)
    await asyncio.to_thread(pooler.start)
    return now()


def _pooler(platform: Platform) -> PgBouncer:
    assert platform.pooler is not None
    return platform.pooler


DRILLS = [
    Drill(
        "pgbouncer-settings",
        "behind PgBouncer 1.18 in transaction mode, sessions lose their plan settings: all services report it, the"
        " roles get the settings, and every server connection has them",
        settings_given,
        failed_max=0,
        in_short=True,
    ),
    Drill("pgbouncer-kill", "SIGKILL of PgBouncer, started again", killed),
]
