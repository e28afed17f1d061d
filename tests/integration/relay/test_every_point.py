"""A relay or its connections may end at any request to a broker: no event is lost or published twice."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from uuid import UUID

import pytest

from services.relay.kafka.records import partitions
from tests.infrastructure.databases import Database
from tests.infrastructure.kafka_proxy import Api, Cut, KafkaProxy, Moment, all_refused, first_refused
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.relay.own_broker import OwnBroker
from tests.integration.relay.test_competition import assert_in_sequence, progress, replicas, writing
from tests.integration.relay.world import Event, World, order_in, write

POINTS = [(api, moment) for api in Api for moment in Moment]
POINT_NAMES = [f"{moment.name.lower()}-{api.name.lower()}" for api, moment in POINTS]
# By number: out of order, unknown producer, fenced, unknown mapping, no leader, too few replicas took it, no right to
# the topic, damaged on its way, another clock, something unknown to the server, and a number that no client knows.
CODES = [45, 59, 47, 49, 6, 20, 29, 2, 32, -1, 999]
# An event's fault, if it is said again.
REFUSALS = [10, 18, 44, 87]
Strike = Callable[[bytes], Awaitable[bytes | None]]


async def cut(_frame: bytes) -> bytes | None:
    """Reset the connection."""
    raise Cut


@dataclass
class Trapped:
    """A broker behind a proxy that tells of every request; `world` reaches it through that."""

    world: World
    direct: World
    strike_at: tuple[int, Moment] | None = None
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    strike: Strike = cut
    once: bool = True

    async def pass_by(self, api: int, moment: Moment, frame: bytes) -> bytes | None:
        """Let requests pass, but for one at which this test strikes."""
        if (api, moment) == self.strike_at:
            if self.once:
                self.strike_at = None
            self.struck.set()
            return await self.strike(frame)
        return None


@pytest.fixture(scope="module")
def proxied(reaper: Reaper) -> Iterator[tuple[OwnBroker, int, int]]:
    """A broker that has a listener which it advertises with another port, the proxy's."""
    bound, advertised = free_port(), free_port()
    properties = {
        "listeners": f"PROXIED://127.0.0.1:{bound}",
        "advertised.listeners": f"PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": "PROXIED:PLAINTEXT",
    }
    broker = OwnBroker(reaper, properties)
    broker.start()
    yield broker, advertised, bound
    broker.kill()


@pytest.fixture
async def trapped(world: World, proxied: tuple[OwnBroker, int, int]) -> AsyncIterator[Trapped]:
    broker, advertised, bound = proxied
    here = Trapped(replace(world, kafka=f"127.0.0.1:{advertised}"), replace(world, kafka=broker.address))
    async with KafkaProxy(advertised, bound, here.pass_by):
        yield here


async def assert_complete(trapped: Trapped, events: list[Event]) -> None:
    """Every event is marked and on the topic, once and in sequence, and none is parked."""
    await trapped.direct.until_sent(len(events), seconds=60)
    assert await trapped.direct.statuses() == {"SENT": len(events)}
    async with trapped.direct.reader() as reader:
        assert_in_sequence(trapped.direct, await reader.to_the_end(), events)


@pytest.mark.parametrize(("api", "moment"), POINTS, ids=POINT_NAMES)
async def test_a_connection_that_is_cut_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, api: Api, moment: Moment
) -> None:
    async with trapped.world.relay(batch_events=10, kafka_timeout_seconds=2) as relay:
        await trapped.world.until_held()
        async with writing(migrated, 21) as events:
            for _ in range(2):
                await progress(trapped.direct, 15)
                trapped.struck.clear()
                trapped.strike_at = (api, moment)
                if api is Api.INIT_PRODUCER_ID:  # which is asked at a take-over only
                    await trapped.direct.connection.execute("UPDATE relay.shards SET epoch = epoch + 1")
                await asyncio.wait_for(trapped.struck.wait(), 20)
        await assert_complete(trapped, events)
    assert relay.publishers() == []


@pytest.mark.parametrize(("api", "moment"), [p for p in POINTS if p[0] is not Api.INIT_PRODUCER_ID])
async def test_a_relay_that_is_killed_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, reaper: Reaper, api: Api, moment: Moment
) -> None:
    with replicas(trapped.world, reaper) as start:
        replica = start()

        async def kill(_frame: bytes) -> bytes | None:
            await replica.end(signal.SIGKILL)
            raise Cut

        trapped.strike = kill
        await trapped.direct.until_held(seconds=60)
        async with writing(migrated, 22) as events:
            await progress(trapped.direct, 15)
            trapped.strike_at = (api, moment)
            await asyncio.wait_for(trapped.struck.wait(), 20)
            successor = start()
        await assert_complete(trapped, events)
        assert await successor.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("api", "moment"),
    [(Api.PRODUCE, Moment.ASKED), (Api.END_TRANSACTION, Moment.ASKED), (Api.END_TRANSACTION, Moment.DONE)],
)
async def test_relay_paused_past_its_lease_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, api: Api, moment: Moment
) -> None:
    """Its request is on the way meanwhile, and arrives only after another relay has taken the shards over."""
    held, taken = asyncio.Event(), asyncio.Event()

    async def hold(_frame: bytes) -> bytes | None:
        held.set()
        await taken.wait()
        return None

    trapped.strike = hold
    async with trapped.world.relay(batch_events=10, kafka_timeout_seconds=10, replica="sleeper"):
        await trapped.direct.until_held("sleeper")
        async with writing(migrated, 23) as events:
            await progress(trapped.direct, 15)
            trapped.strike_at = (api, moment)
            await asyncio.wait_for(held.wait(), 20)
            async with trapped.direct.relay(batch_events=10, replica="other"):
                await trapped.direct.connection.execute(
                    "UPDATE relay.shards SET lease_expires_at = '-infinity' WHERE holder = 'sleeper'"
                )

                async def others() -> bool:
                    query = "SELECT count(*) FROM relay.shards WHERE holder = 'other'"
                    return bool(await trapped.direct.connection.fetchval(query) >= 1)

                await eventually(others, 20, "a shard taken over")
                taken.set()
                await progress(trapped.direct, 30)
        await assert_complete(trapped, events)


@pytest.mark.parametrize("code", [*CODES, *REFUSALS])
async def test_error_of_one_send_among_others_parks_and_loses_nothing(
    trapped: Trapped, migrated: Database, code: int
) -> None:
    """The broker took all of it, and says otherwise of one partition, twice. Then it is well again."""

    async def refuse(answer: bytes) -> bytes | None:
        return first_refused(answer, code)

    await publish_through(trapped, migrated, (Api.PRODUCE, Moment.DONE), refuse)


@pytest.mark.parametrize("code", REFUSALS)
async def test_event_refused_at_each_attempt_parks_only_its_order(trapped: Trapped, code: int) -> None:
    async def refuse(request: bytes) -> bytes | None:
        return all_refused(request, code, holding=b"poison") if b"poison" in request else None

    trapped.strike, trapped.strike_at, trapped.once = refuse, (Api.PRODUCE, Moment.ASKED), False
    # In one partition: requests that are held back here would leave a gap in those of another.
    before, poisoned, after = in_one_partition(3)
    others = [Event(order, 1) for order in (before, after, order_in(1), order_in(2), order_in(3))]
    own = [Event(poisoned, 1, payload=b"poison"), Event(poisoned, 2)]
    async with trapped.world.relay(kafka_timeout_seconds=2):
        await trapped.direct.until_held()
        await write(trapped.direct.connection, [*others[:1], *own, *others[1:]])
        await trapped.direct.until_sent(len(others), seconds=60)
        await eventually(lambda: all_told(trapped.direct, len(others) + len(own)), 60, "two parked events")
        assert await trapped.direct.statuses() == {"SENT": len(others), "PARKED": len(own)}
        async with trapped.direct.reader() as reader:
            assert_in_sequence(trapped.direct, await reader.to_the_end(), others)


def in_one_partition(count: int) -> list[UUID]:
    """Orders of shard 0 whose events go to the topic's first partition."""
    orders = (order_in(0) for _ in repeat(None))
    return list(islice((order for order in orders if partitions([str(order).encode()], 4) == [0]), count))


async def all_told(world: World, count: int) -> bool:
    """Whether no event waits any more."""
    statuses = await world.statuses()
    return "PENDING" not in statuses and sum(statuses.values()) == count


@pytest.mark.parametrize("code", [45, 59, 6, 999])
async def test_an_error_of_a_whole_request_parks_nothing_and_loses_nothing(
    trapped: Trapped, migrated: Database, code: int
) -> None:
    async def refuse(request: bytes) -> bytes | None:
        return all_refused(request, code)

    await publish_through(trapped, migrated, (Api.PRODUCE, Moment.ASKED), refuse)


async def publish_through(trapped: Trapped, database: Database, point: tuple[int, Moment], strike: Strike) -> None:
    """Publish what writers write while the strike falls twice."""
    trapped.strike = strike
    async with trapped.world.relay(batch_events=10, kafka_timeout_seconds=2):
        await trapped.direct.until_held()
        async with writing(database, 24) as events:
            for _ in range(2):
                await progress(trapped.direct, 15)
                trapped.struck.clear()
                trapped.strike_at = point
                await asyncio.wait_for(trapped.struck.wait(), 20)
        await assert_complete(trapped, events)


@asynccontextmanager
async def outage(trapped: Trapped, code: int) -> AsyncIterator[None]:
    """Within, the broker takes nothing."""
    ended = asyncio.Event()

    async def refuse(request: bytes) -> bytes | None:
        if not ended.is_set():
            trapped.strike_at = (Api.PRODUCE, Moment.ASKED)
        return all_refused(request, code)

    trapped.strike = refuse
    trapped.strike_at = (Api.PRODUCE, Moment.ASKED)
    yield
    ended.set()
    trapped.strike_at = None


@pytest.mark.parametrize("code", [999, 2, 32])
async def test_long_outage_gives_up_no_event(trapped: Trapped, migrated: Database, code: int) -> None:
    async with trapped.world.relay(batch_events=10, kafka_timeout_seconds=2) as relay:
        await trapped.direct.until_held()
        async with writing(migrated, 25) as events, outage(trapped, code):

            async def failing() -> bool:
                return any(
                    publisher.failures.failing and publisher.failures.in_a_row > 5 for publisher in relay.publishers()
                )

            await eventually(failing, 60, "a shard that failed more than five times")
        await assert_complete(trapped, events)


@pytest.mark.parametrize(("code", "name"), [(19, "NotEnoughReplicasError"), (89, "ThrottlingQuotaExceededError")])
async def test_waiting_shard_names_the_broker_s_answer(trapped: Trapped, code: int, name: str) -> None:
    """To the first of them the client tries again by itself, without a word."""
    async with trapped.world.relay(kafka_timeout_seconds=1) as relay:
        await trapped.direct.until_held()
        async with outage(trapped, code):
            await write(trapped.direct.connection, [Event(order_in(0), 1)])

            async def named() -> bool:
                return any(name in publisher.state for publisher in relay.publishers())

            await eventually(named, 30, f"a shard that names {name}")
        await trapped.direct.until_sent(1)
