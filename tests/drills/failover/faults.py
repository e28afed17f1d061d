"""The faults: each strikes, and returns what to do when customers have bought again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from deploy.ha.programs import ETCDS
from tests.drills.failover.waits import by_role, waits
from tests.infrastructure.own_ha import OwnHa
from tests.infrastructure.waiting import eventually

PAUSED_SECONDS = 30  # longer than `ttl`: another one is primary when a primary wakes, and its key has ended
TTL_SECONDS = 20  # deploy/ha/patroni.yml
LOST_MAX_SECONDS = TTL_SECONDS + 5.0
MOVED_MAX_SECONDS = 10.0  # one switchover, or two rounds of Patroni (`loop_wait`) until a lost standby is dropped
SHORT_MAX_SECONDS = 6.0
CLOSED_MAX_SECONDS = PAUSED_SECONDS + 15.0  # until a standby runs again, commits reach it, and sessions are opened
STRICT = 2  # so many standbys


async def _nothing() -> None:
    """Repair nothing."""


@dataclass(frozen=True, slots=True)
class Struck:
    """What is left of a fault: what to do when customers have bought again, and when nobody may have bought.

    `closed`: the times, by time.monotonic(), between which no standby could get a commit.
    """

    repair: Callable[[], Awaitable[None]] = _nothing
    closed: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with a name and what happens, in words.

    After `each_max_seconds` customers get a 201 and no 503, in each round; after `median_max_seconds` in the median of
    several rounds. `standbys`: of the cluster that it strikes; with two, it is strict.
    """

    name: str
    what: str
    strike: Callable[[OwnHa], Awaitable[Struck]]
    each_max_seconds: float = LOST_MAX_SECONDS
    median_max_seconds: float = LOST_MAX_SECONDS
    standbys: int = 1
    in_short: bool = False


async def kill(ha: OwnHa) -> Struck:
    """Kill the primary and its Patroni, as if its machine were lost."""
    return await _kill(ha, await ha.primary())


async def switch_over(ha: OwnHa) -> Struck:
    """Make the standby primary, as before work on a machine."""
    await ha.members.switch_over(await ha.primary(), await ha.standby())
    return Struck()


async def pause(ha: OwnHa) -> Struck:
    """Pause the primary and its Patroni until another one is primary, and wake it."""
    victim = await ha.primary()
    await asyncio.to_thread(ha.pause_member, victim)
    await asyncio.sleep(PAUSED_SECONDS)
    await asyncio.to_thread(ha.wake_member, victim)
    return Struck()


async def kill_standby(ha: OwnHa) -> Struck:
    """Kill the standby for which commits wait, and its Patroni."""
    return await _kill(ha, await ha.standby())


async def kill_standbys(ha: OwnHa) -> Struck:
    """Kill both standbys, for longer than Patroni needs to notice it, and start one of them."""
    primary = await ha.primary()
    first, second = (member for member in ha.layout.members if member != primary)
    await _kill(ha, first, second)
    since = time.monotonic()
    await asyncio.sleep(PAUSED_SECONDS)
    waiting = await waits(ha)
    print(f"waiting for a standby: {by_role(waiting)}", flush=True)
    until = time.monotonic()
    await asyncio.to_thread(ha.start_member, first)

    async def start_second() -> None:
        """What waited has ended, also where its client had given up: it would count to its role's connections."""

        async def ended() -> bool:
            return not waiting & await waits(ha)

        await eventually(ended, SHORT_MAX_SECONDS, "the end of what waited for a standby")
        await asyncio.to_thread(ha.start_member, second)

    return Struck(start_second, (since, until))


async def kill_etcd(ha: OwnHa) -> Struck:
    """Kill the etcd that leads the other two."""
    return await _kill_etcds(ha, await _leading_etcd(ha))


async def kill_two_etcds(ha: OwnHa) -> Struck:
    """Kill the etcd that leads, and another one, for so long that the primary's key would have ended."""
    primary, leading = await ha.primary(), await _leading_etcd(ha)
    struck = await _kill_etcds(ha, leading, next(etcd for etcd in ETCDS if etcd != leading))
    await asyncio.sleep(PAUSED_SECONDS)
    assert await ha.members.primary() == primary, "nobody else can be primary without a majority"
    return struck


async def restart_haproxy(ha: OwnHa) -> Struck:
    """End all sessions."""
    await asyncio.to_thread(ha.restart_haproxy)
    return Struck()


async def _kill(ha: OwnHa, *victims: str) -> Struck:
    for victim in victims:
        await asyncio.to_thread(ha.kill_member, victim)

    async def start() -> None:
        for victim in victims:
            await asyncio.to_thread(ha.start_member, victim)

    return Struck(start)


async def _kill_etcds(ha: OwnHa, *victims: str) -> Struck:
    for victim in victims:
        await asyncio.to_thread(ha.kill_etcd, victim)

    async def start() -> None:
        for victim in victims:
            await asyncio.to_thread(ha.start_etcd, victim)

    return Struck(start)


async def _leading_etcd(ha: OwnHa) -> str:
    async with aiohttp.ClientSession() as session:
        for etcd in ETCDS:
            url = f"http://{ha.layout.address(etcd)}/v3/maintenance/status"
            async with session.post(url, json={}) as answer:
                status = await answer.json(content_type=None)
            if status["leader"] == status["header"]["member_id"]:
                return etcd
    raise AssertionError("no etcd leads")


FAULTS = [
    Fault("kill", "SIGKILL of the primary and its Patroni", kill, in_short=True),
    Fault("switchover", "a planned switchover", switch_over, MOVED_MAX_SECONDS, SHORT_MAX_SECONDS, in_short=True),
    Fault("pause", "the primary and its Patroni are paused for 30 s, and wake", pause),
    Fault(
        "kill-standby",
        "SIGKILL of the synchronous standby and its Patroni",
        kill_standby,
        MOVED_MAX_SECONDS,
        SHORT_MAX_SECONDS,
    ),
    Fault(
        "kill-etcd",
        "SIGKILL of the leader of the three etcd members",
        kill_etcd,
        SHORT_MAX_SECONDS,
        SHORT_MAX_SECONDS,
    ),
    Fault(
        "kill-two-etcds",
        "SIGKILL of the leader and of one more of the three etcd members, for 30 s",
        kill_two_etcds,
        SHORT_MAX_SECONDS,
        SHORT_MAX_SECONDS,
    ),
    Fault(
        "restart-haproxy",
        "HAProxy is restarted, and ends all sessions",
        restart_haproxy,
        SHORT_MAX_SECONDS,
        SHORT_MAX_SECONDS,
    ),
    Fault("strict-kill", "strict: SIGKILL of the primary and its Patroni", kill, standbys=STRICT),
    Fault(
        "strict-kill-standby",
        "strict: SIGKILL of one of two standbys and its Patroni",
        kill_standby,
        SHORT_MAX_SECONDS,
        SHORT_MAX_SECONDS,
        standbys=STRICT,
    ),
    Fault(
        "strict-kill-standbys",
        "strict: SIGKILL of both standbys; one is back after 30 s, the other one when customers buy again",
        kill_standbys,
        CLOSED_MAX_SECONDS,
        CLOSED_MAX_SECONDS,
        standbys=STRICT,
    ),
]
