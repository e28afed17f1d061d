"""Every replica is replaced while customers call, and no call fails, whichever balancer is before the replicas.

A short run by default; `make rolling` makes 10,000 calls through each balancer.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tests.faults.rolling.customers import Customer, shopping
from tests.faults.rolling.platform import SERVICES, STOP_SECONDS, Platform, platform
from tests.faults.test_faults import is_bad
from tests.infrastructure.balancers import Balancer, HAProxy, Nginx
from tests.infrastructure.books import violations
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sagas import sagas_ended

CALLS = int(os.environ.get("ROLLING_CALLS") or 300)
LONG = CALLS > 1000
CALLS_SECONDS = 600
SAGAS_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Run:
    """A balancer, how many replicas each service has, and what customers do."""

    balancer: type[Balancer]
    replicas: Mapping[str, int]
    shop: Callable[[Customer], Awaitable[None]]
    prepare: Callable[[Customer], Awaitable[None]] | None = None


RUNS = {
    "HAProxy": Run(HAProxy, dict.fromkeys(SERVICES, 2), Customer.use_everything),
    "nginx": Run(Nginx, dict.fromkeys(SERVICES, 2), Customer.use_everything),
    # Its own public calls would fail, so customers make those of the order service only.
    "one replica of each participant": Run(
        HAProxy, {**dict.fromkeys(SERVICES, 1), "order": 2}, Customer.order, Customer.prepare
    ),
}


@pytest.mark.timeout(1200 if LONG else 240)  # a busy machine starts eight processes slowly
@pytest.mark.parametrize("name", RUNS if LONG else ["HAProxy"])
async def test_no_call_fails_while_replicas_are_replaced(
    reaper: Reaper, tmp_path: Path, create_database: Callable[..., Database], name: str
) -> None:
    run = RUNS[name]
    database = create_database(migrated=True)
    stops: list[float] = []
    balancer = run.balancer(reaper)
    async with platform(reaper, tmp_path, database, balancer, run.replicas, forked=not LONG) as made:
        async with shopping(made.url, made.token, run.shop, run.prepare) as tally:
            # In a short run, one of each service, at the same time.
            first = [one for one in made.processes if one.endswith("-1")]
            for names in [[one] for one in made.processes] if LONG else [first]:
                await tally.further(CALLS // 50, CALLS_SECONDS)
                stops += await asyncio.gather(*(made.replace(one) for one in names))
                assert tally.failures == []
            await tally.further(max(CALLS // 50, CALLS - tally.calls.total()), CALLS_SECONDS)
        await nothing_is_wrong(made, database)
    print(
        f"\n{name}: {tally.calls.total()} calls, {len(tally.failures)} failed; {len(stops)} replicas replaced, each"
        f" stopped within {max(stops):.1f} s; {tally.kept} calls on kept connections; {dict(tally.calls)}"
    )
    assert tally.failures == []
    assert max(stops) < STOP_SECONDS


async def nothing_is_wrong(made: Platform, database: Database) -> None:
    """Compare the books of all services, and look for bugs in their logs."""
    connection = await asyncpg.connect(database.url)
    try:
        await sagas_ended(connection, SAGAS_SECONDS)
    finally:
        await connection.close()
    lines = await violations(database.url)
    for name, process in made.processes.items():
        lines += [f"{name}: {line}" for line in process.log.read_text().splitlines() if is_bad(line)]
    assert lines == []
