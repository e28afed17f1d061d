"""Every command of docs/failover.md is executed against a cluster that is in the situation that it is for.

The tests work on one cluster, in their order. Between two of them every member follows the primary.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deploy.ha.programs import ETCDS, MEMBERS
from tests.drills.failover.faults import TTL_SECONDS
from tests.ha.cluster import Cluster, missing_client
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.own_ha import HEAL_SECONDS, why_not
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.runbook.blocks import blocks_by

pytestmark = pytest.mark.timeout(400)  # a key in etcd lasts for 20 s, and a member that is copied takes longer
STEPS = {(block.section, block.number): block for block in blocks_by("tests/ha/test_procedures.py")}
LIST = ("What to do when …", 1)
COPY, LAX, STRICT = [("no standby is in sync", number) for number in (1, 2, 3)]
ASK_ETCDS, PROMOTE = [("no member is promoted", number) for number in (1, 2)]
MOVE = ("work on a machine is planned", 1)
MAKE_LAX = ("a member is removed", 1)
TAG, UNTAG, MAKE_STRICT = [("a member is added", number) for number in (1, 2, 3)]
REMOVE_ETCD, ADD_ETCD, CHECK_ETCDS = [("an etcd member is replaced", number) for number in (1, 2, 3)]
ALL = {
    MAKE_LAX,
    LIST,
    COPY,
    LAX,
    STRICT,
    ASK_ETCDS,
    PROMOTE,
    MOVE,
    TAG,
    UNTAG,
    MAKE_STRICT,
    REMOVE_ETCD,
    ADD_ETCD,
    CHECK_ETCDS,
}
STEP_SECONDS = 120
WAIT_SECONDS = 30
LAX_SECONDS = 15  # three times `loop_wait`, for a busy machine
Operate = Callable[..., Awaitable[str]]


@pytest.fixture(scope="module")
def cluster(reaper: Reaper) -> Cluster:
    """Two members, in a folder that the user of Postgres may enter, unlike pytest's."""
    if why := why_not() or missing_client():
        cannot_run(why)
    folder = Path(tempfile.mkdtemp(prefix="order-platform-procedures-"))
    reaper.folder(folder)
    folder.chmod(0o755)
    cluster = Cluster(reaper, folder / "ha")
    cluster.start()
    cluster.wait()
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE kept (number serial)")
    return cluster


@pytest.fixture
def operate(cluster: Cluster, tmp_path: Path) -> Operate:
    """Runs a command of the page on a member, and returns its output."""
    turns = itertools.count()

    async def run(step: tuple[str, int], member: str = "postgres-1", **variables: str) -> str:
        shell = cluster.shell(tmp_path / f"turn-{next(turns)}", member)
        shell.set({"MEMBER": member, **variables})
        return await shell.run(STEPS[step], STEP_SECONDS)

    return run


def test_every_command_of_the_page_is_executed_here() -> None:
    assert set(STEPS) == ALL


async def test_added_member_follows_and_may_become_primary(cluster: Cluster, operate: Operate) -> None:
    new = "postgres-3"
    await operate(TAG, new)
    cluster.resize(*MEMBERS)
    cluster.start_member(new)
    await cluster.healed()
    assert "nofailover: true" in await operate(LIST, new)
    await asyncio.to_thread(cluster.restart_haproxy)
    await operate(UNTAG, new)

    async def untagged() -> bool:
        return "nofailover" not in await operate(LIST, new)

    await eventually(untagged, WAIT_SECONDS, "a member without the tag")
    assert "+synchronous_mode_strict: true" in await operate(MAKE_STRICT)
    # The new one is then the only standby.
    primary = await cluster.primary()
    (other,) = set(MEMBERS) - {new, primary}
    await asyncio.to_thread(cluster.stop_member, other)
    await _in_sync(cluster, new)
    await operate(MOVE)
    assert await cluster.primary() == new
    await asyncio.to_thread(_write, cluster)
    cluster.start_member(other)
    await cluster.healed()


async def test_planned_switchover_is_refused_without_a_standby_in_sync(cluster: Cluster, operate: Operate) -> None:
    primary = await cluster.primary()
    standbys = [one for one in MEMBERS if one != primary]
    for standby in standbys:
        await asyncio.to_thread(cluster.kill_member, standby)
    assert "Switchover failed" in await operate(MOVE)
    assert await cluster.primary() == primary
    for standby in standbys:
        cluster.start_member(standby)
    await cluster.healed()


async def test_end_of_strictness_commits_what_waits_for_a_standby(cluster: Cluster, operate: Operate) -> None:
    primary = await cluster.primary()
    standbys = [one for one in MEMBERS if one != primary]
    for standby in standbys:
        await asyncio.to_thread(cluster.kill_member, standby)
    writing = asyncio.create_task(asyncio.to_thread(_write, cluster))
    await eventually(lambda: asyncio.to_thread(_waits_for_a_standby, cluster), WAIT_SECONDS, "a commit that waits")
    await operate(LAX)
    await asyncio.wait_for(writing, LAX_SECONDS)
    for standby in standbys:
        cluster.start_member(standby)
    await cluster.healed()
    assert "+synchronous_mode_strict: true" in await operate(STRICT)


async def test_standby_that_cannot_follow_is_copied_anew(cluster: Cluster, operate: Operate) -> None:
    late = await cluster.standby()
    await asyncio.to_thread(cluster.stop_member, late)
    await asyncio.to_thread(cluster.drop_wal, late)
    before = len(cluster.log(late))
    cluster.start_member(late)

    async def cannot_follow() -> bool:
        return "has already been removed" in cluster.log(late)[before:]

    await eventually(cannot_follow, HEAL_SECONDS, "a standby that lacks WAL")
    assert "Success: reinitialize for member" in await operate(COPY, late)
    await cluster.healed()


async def test_etcd_without_majority_is_named_and_back_after_a_start(cluster: Cluster, operate: Operate) -> None:
    primary = await cluster.primary()
    for etcd in ("etcd-1", "etcd-3"):
        cluster.kill_etcd(etcd)
    assert _healthy(await operate(ASK_ETCDS)) == 0
    await asyncio.to_thread(_write, cluster)  # sales go on (`failsafe_mode`)
    for etcd in ("etcd-1", "etcd-3"):
        cluster.start_etcd(etcd)
    await _three_healthy(operate)
    assert await cluster.primary() == primary
    await cluster.healed()


async def test_replaced_etcd_is_healthy(cluster: Cluster, operate: Operate) -> None:
    cluster.kill_etcd("etcd-2")
    await _healthy_etcds(operate, 2)
    await operate(REMOVE_ETCD, ETCD="etcd-2")

    async def added() -> bool:
        return "added to cluster" in await operate(ADD_ETCD, ETCD="etcd-2", PEER_URL=cluster.layout.peer_url("etcd-2"))

    await eventually(added, WAIT_SECONDS, "an etcd that is added")
    cluster.replace_etcd("etcd-2")
    await _three_healthy(operate)
    # Later starts use the variables of all others.
    cluster.kill_etcd("etcd-2")
    cluster.start_etcd("etcd-2")
    await _three_healthy(operate)


async def test_member_that_is_not_in_sync_is_promoted_by_hand_only(cluster: Cluster, operate: Operate) -> None:
    primary, standby = await cluster.primary(), await cluster.standby()
    (left,) = set(MEMBERS) - {primary, standby}
    for lost in (standby, primary):
        await asyncio.to_thread(cluster.kill_member, lost)

    async def keys_have_ended() -> bool:
        return [one.name for one in await cluster.members.all()] == [left]

    await eventually(keys_have_ended, 2 * TTL_SECONDS, "the end of the lost members' keys")
    assert await cluster.members.primary() is None
    assert "Leader" not in await operate(LIST, left)
    await operate(PROMOTE, left)
    assert await cluster.primary() == left
    for lost in (standby, primary):
        cluster.start_member(lost)
    await cluster.healed()
    await asyncio.to_thread(_write, cluster)


async def test_removed_primary_leaves_two_members_that_sell(cluster: Cluster, operate: Operate) -> None:
    leaving = await cluster.primary()
    await operate(MOVE)
    assert await cluster.primary() != leaving
    await asyncio.to_thread(cluster.stop_member, leaving)
    await operate(MAKE_LAX)

    async def gone() -> bool:
        return leaving not in await operate(LIST)

    await eventually(gone, TTL_SECONDS + WAIT_SECONDS, "the end of its key")
    cluster.resize(*(one for one in MEMBERS if one != leaving))
    await asyncio.to_thread(cluster.restart_haproxy)
    await asyncio.to_thread(cluster.forget, leaving)
    await cluster.healed()
    await asyncio.to_thread(_write, cluster)


def _write(cluster: Cluster) -> None:
    """Commit a row, and so wait for a standby where one must have it."""
    with cluster.connect() as connection:
        connection.execute("INSERT INTO kept DEFAULT VALUES")


def _waits_for_a_standby(cluster: Cluster) -> bool:
    with cluster.connect() as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchone()
    return row is not None and row[0] > 0


async def _in_sync(cluster: Cluster, member: str) -> None:
    async def is_in_sync() -> bool:
        return member in await cluster.members.in_sync()

    await eventually(is_in_sync, HEAL_SECONDS, f"{member} in sync")


async def _healthy_etcds(operate: Operate, number: int) -> None:
    async def healthy() -> bool:
        return _healthy(await operate(ASK_ETCDS)) == number

    await eventually(healthy, HEAL_SECONDS, f"{number} healthy etcds")


async def _three_healthy(operate: Operate) -> None:
    await _healthy_etcds(operate, len(ETCDS))
    await operate(CHECK_ETCDS)


def _healthy(table: str) -> int:
    """Return how many etcds are healthy, of the table that etcdctl prints."""
    return sum(line.split("|")[2].strip() == "true" for line in table.splitlines() if line.startswith("| http"))
