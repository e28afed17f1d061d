"""Customers buy while the primary is killed, and moved: the short form of `make drill-failover`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.failover.faults import FAULTS
from tests.drills.failover.rounds import run, stage, verdict_of
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.own_ha import why_not
from tests.infrastructure.reaper import Reaper


@pytest.fixture
def own_reaper() -> Iterator[Reaper]:
    """Ends all servers with the test. Until the end of all tests they would take the time of others."""
    reaper = Reaper()
    yield reaper
    reaper.close()


@pytest.fixture
def open_folder(own_reaper: Reaper) -> Path:
    """Return a folder that the user of Postgres may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="order-platform-failover-"))
    own_reaper.folder(folder)
    folder.chmod(0o755)
    return folder


@pytest.mark.real_broker
@pytest.mark.timeout(300)  # the platform, Kafka and a cluster are started, and the key in etcd lasts for 20 s
async def test_lost_and_moved_primary_lose_no_order(own_reaper: Reaper, open_folder: Path) -> None:
    if why := why_not():
        cannot_run(why)
    *others, last = sorted((fault for fault in FAULTS if fault.in_short), key=lambda fault: fault.each_max_seconds)
    async with stage(own_reaper, open_folder) as on:
        for fault in (*others, last):
            result = await run(fault, on, until_whole=fault is not last)
            print(f"{fault.name}: {result}")
            assert not verdict_of(fault, [result])
