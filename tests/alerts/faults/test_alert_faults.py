"""Each alert fires at its fault, with its labels, and ends when the fault does."""

import time
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from tests.alerts import rules
from tests.alerts.faults.catalogue import SITUATIONS
from tests.alerts.faults.platform import Platform, platform
from tests.alerts.faults.prometheus import Labels
from tests.alerts.faults.situation import Situation
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.postgres import system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

FIRES_SECONDS = 90  # a participant that hangs is noticed after 30 s by the audit, which measures the sagas' age
ENDS_SECONDS = 90  # the pauses between tries grow with the time that a fault lasts
SECONDS: dict[str, tuple[float, float]] = {}  # of each alert: from the fault to the alert, from the repair to its end


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """Start the platform, and wait until no alert fires."""
    rules.tool("prometheus")
    if system_binaries() is None:
        cannot_run("no Postgres from 15 on is installed")
    async with platform(reaper, tmp_path_factory.mktemp("platform")) as made:
        await nothing_fires(made)
        yield made


async def nothing_fires(running: Platform) -> None:
    """Wait until no alert fires."""

    async def quiet() -> bool:
        return not (await running.prometheus.firing())

    try:
        await eventually(quiet, ENDS_SECONDS, "no alert")
    except AssertionError:
        pytest.fail(f"firing: {await running.prometheus.firing()}")


async def until(running: Platform, wanted: Mapping[str, Labels], *, firing: bool, seconds: float) -> dict[str, float]:
    """Wait until all of these alerts fire at once, or none; return after how many seconds each first did."""
    began, since = time.monotonic(), dict[str, float]()

    async def reached() -> bool:
        found = await running.prometheus.firing()
        if firing:
            now = {name for name, labels in wanted.items() if labels in found}
        else:
            now = wanted.keys() - {labels["alertname"] for labels in found}
        for name in now:
            since.setdefault(name, time.monotonic() - began)
        return since.keys() == wanted.keys() if firing else now == wanted.keys()

    try:
        await eventually(reached, seconds, "alerts")
    except AssertionError:
        state = await running.prometheus.firing()
        pytest.fail(f"{'fires' if firing else 'ends'}: {sorted(since)} of {sorted(wanted)}; firing: {state}")
    return since


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.what)
async def test_alerts_fire_at_their_fault_and_end_after_it(running: Platform, situation: Situation) -> None:
    wanted = situation.labels(running)
    await until(running, wanted, firing=False, seconds=ENDS_SECONDS)
    async with situation.fault(running):
        fired = await until(running, wanted, firing=True, seconds=FIRES_SECONDS)
    ended = await until(running, wanted, firing=False, seconds=ENDS_SECONDS)
    SECONDS.update({name: (fired[name], ended[name]) for name in wanted})


async def test_no_alert_fires_when_every_fault_is_over(running: Platform) -> None:
    await nothing_fires(running)
    print(f"\n{'alert':26} fires after  ends after")
    for name, (fires, ends) in sorted(SECONDS.items()):
        print(f"{name:26} {fires:9.1f} s {ends:9.1f} s")
    faults = [situation for situation in SITUATIONS if situation.alerts.keys() <= SECONDS.keys()]
    print(f"{len(SECONDS)} alerts fired by {len(faults)} faults, and ended after them")
