"""Each service's previous version beside the current version of the others, and back, while customers buy.

The schemas are those of the current version. By default each service is switched alone. `make versions` runs all
combinations, with a real broker.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.load import Load
from tests.compatibility.previous import ALL_COMBINATIONS, CURRENT, Version
from tests.faults.checker import unpublished
from tests.faults.cluster import PARTICIPANTS, REPLICAS, Cluster, cluster
from tests.faults.test_faults import audited, is_bad, until_idle
from tests.infrastructure.books import violations
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.reaper import Reaper

SERVICES: dict[str, tuple[str, ...]] = {**{name: (name,) for name in (*PARTICIPANTS, "relay")}, "order": REPLICAS}
STOP_SECONDS = 25
# Short, so that orders expire during the run; long enough to pay while a participant is replaced.
SETTINGS: dict[str, Any] = {"ORDER_PAYMENT_TIMEOUT_SECONDS": "6", "ORDER_REQUEST_DEADLINE_SECONDS": "10"}


def switches() -> Iterator[str]:
    """Yield the service to switch to its other version next; at the end all have their first version again."""
    names = list(SERVICES)
    if not ALL_COMBINATIONS:
        yield from (name for name in names for _ in range(2))
        return
    for number in range(1, 2 ** len(names) + 1):  # a Gray code: each combination once, one service at a time
        yield names[min((number & -number).bit_length(), len(names)) - 1]


async def switch(made: Cluster, load: Load, service: str, version: Version) -> None:
    """Replace the processes of a service, one after the other, by ones of a version."""
    for name in SERVICES[service]:
        process = made.processes[name]
        await load.take_out(name)
        process.send(signal.SIGTERM)
        assert await process.ended(STOP_SECONDS) == 0, f"{name}: {process.log.read_text()[-2000:]}"
        process.command[0], process.source = version.python, version.source
        process.start()
        await process.ready()
        load.put_back(name)


@pytest.mark.timeout(3000 if ALL_COMBINATIONS else 400)
async def test_a_previous_version_works_beside_current_ones(reaper: Reaper, tmp_path: Path, previous: Version) -> None:
    began = time.monotonic()
    old: set[str] = set()
    combinations = set()
    broker = OwnBroker(reaper) if ALL_COMBINATIONS else None
    async with cluster(reaper, tmp_path, broker=broker, forked=not ALL_COMBINATIONS, **SETTINGS) as made:
        load = Load(made)
        await load.prepare(coupons=1000 if ALL_COMBINATIONS else 200)
        shopping = asyncio.create_task(load.run())
        try:
            for service in switches():
                old ^= {service}
                await switch(made, load, service, previous if service in old else CURRENT)
                await load.each_way_once()
                combinations.add(frozenset(old))
                assert load.failures == [], f"with the previous version of {sorted(old)}"
            load.close()
            await shopping
        finally:
            shopping.cancel()
        assert not old
        await until_idle(made, 60)
        lines = load.failures + await violations(made.database.url)
        lines += await unpublished(made.broker.address, made.database.url, once=ALL_COMBINATIONS)
        lines += [f"{name}: {line}" for name, log in made.logs().items() for line in log.splitlines() if is_bad(line)]
        audit = await audited(made)
        assert (lines, audit["clean"], audit["findings"]) == ([], True, [])
    print(
        f"\n{len(combinations)} combinations of versions, {sum(load.done.values())} purchases, {load.calls} calls,"
        f" {len(load.failures)} failed, in {time.monotonic() - began:.0f} s"
    )
    assert load.done["left to expire"]
