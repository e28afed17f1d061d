"""A relay or its connections may end at any request to a broker: no event is lost or published twice.

A short run by default, with one error of each way in which the client and the relay treat them. `make points` has every
point and every error.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from uuid import UUID

import pytest

from services.relay.kafka.records import partitions
from tests.infrastructure.databases import Database
from tests.infrastructure.kafka_proxy import Api, Cut, Stage, all_refused, first_refused
from tests.infrastructure.outbox_writers import assert_in_sequence, progress, writing
from tests.infrastructure.own_broker import ProxiedBroker
from tests.infrastructure.pipeline import Event, Pipeline, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.relay_processes import replicas
from tests.infrastructure.waiting import eventually

ALL = bool(os.environ.get("POINTS_ALL"))
POINTS = [(api, stage) for api in Api for stage in Stage]
POINT_NAMES = [f"{stage.name.lower()}-{api.name.lower()}" for api, stage in POINTS]
# By number: out of order, unknown producer, fenced, unknown mapping, no leader, too few replicas took it, no right to
# the topic, damaged on its way, another clock, something unknown to the server, and a number that no client knows.
CODES = [45, 59, 47, 49, 6, 20, 29, 2, 32, -1, 999] if ALL else [45, 47, 6, 999]
# The event is the cause if the error repeats.
REFUSALS = [10, 18, 44, 87] if ALL else [10, 87]
# Before the broker knows of a transaction, while it has a record that the relay is not sure of, and when it has ended.
KILLED_AT = [
    (Api.ADD_PARTITIONS, Stage.REQUEST),
    (Api.PRODUCE, Stage.ANSWER),
    (Api.END_TRANSACTION, Stage.ANSWER),
]
# The end that arrives late is what would commit a batch that another relay has sent.
PAUSED_AT = [(Api.END_TRANSACTION, Stage.REQUEST)]
Strike = Callable[[bytes], Awaitable[bytes | None]]


async def cut(_frame: bytes) -> bytes | None:
    """Reset the connection."""
    raise Cut


@dataclass
class Trapped:
    """A broker behind a proxy that reports every request; `pipeline` uses the proxy, `direct` bypasses it."""

    pipeline: Pipeline
    direct: Pipeline
    strike_at: tuple[int, Stage] | None = None
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    strike: Strike = cut
    once: bool = True

    async def pass_by(self, api: int, stage: Stage, frame: bytes) -> bytes | None:
        """Let requests pass, except one at which the test injects the fault."""
        if (api, stage) == self.strike_at:
            if self.once:
                self.strike_at = None
            self.struck.set()
            return await self.strike(frame)
        return None


@pytest.fixture
async def trapped(pipeline: Pipeline, proxied: ProxiedBroker) -> AsyncIterator[Trapped]:
    here = Trapped(replace(pipeline, kafka=proxied.address), replace(pipeline, kafka=proxied.broker.address))
    async with proxied.proxy(here.pass_by):
        yield here


async def assert_complete(trapped: Trapped, events: list[Event]) -> None:
    """Check that every event is marked and on the topic, once and in sequence, and that none is parked."""
    await trapped.direct.until_sent(len(events), seconds=60)
    assert await trapped.direct.statuses() == {"SENT": len(events)}
    async with trapped.direct.reader() as reader:
        assert_in_sequence(trapped.direct, await reader.to_the_end(), events)


@pytest.mark.parametrize(("api", "stage"), POINTS, ids=POINT_NAMES)
async def test_a_connection_that_is_cut_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, api: Api, stage: Stage
) -> None:
    async with trapped.pipeline.relay(batch_events=10, kafka_timeout_seconds=2) as relay:
        await trapped.pipeline.until_held()
        async with writing(migrated, 21, None) as events:
            for _ in range(2):
                await progress(trapped.direct, 15)
                trapped.struck.clear()
                trapped.strike_at = (api, stage)
                if api is Api.INIT_PRODUCER_ID:  # this request is sent only at a take-over
                    await trapped.direct.connection.execute("UPDATE relay.shards SET epoch = epoch + 1")
                await asyncio.wait_for(trapped.struck.wait(), 20)
        await assert_complete(trapped, events)
    assert relay.publishers() == []


@pytest.mark.parametrize(
    ("api", "stage"), [point for point in POINTS if point[0] is not Api.INIT_PRODUCER_ID] if ALL else KILLED_AT
)
async def test_a_relay_that_is_killed_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, reaper: Reaper, api: Api, stage: Stage
) -> None:
    with replicas(trapped.pipeline, reaper) as start:
        replica = start()

        async def kill(_frame: bytes) -> bytes | None:
            await replica.end(signal.SIGKILL)
            raise Cut

        trapped.strike = kill
        await trapped.direct.until_held(seconds=60)
        async with writing(migrated, 22, None) as events:
            await progress(trapped.direct, 15)
            trapped.strike_at = (api, stage)
            await asyncio.wait_for(trapped.struck.wait(), 20)
            successor = start()
        await assert_complete(trapped, events)
        assert await successor.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("api", "stage"),
    [(Api.PRODUCE, Stage.REQUEST), *PAUSED_AT, (Api.END_TRANSACTION, Stage.ANSWER)] if ALL else PAUSED_AT,
)
async def test_relay_paused_past_its_lease_at_any_request_loses_and_repeats_nothing(
    trapped: Trapped, migrated: Database, api: Api, stage: Stage
) -> None:
    """Its request is delayed, and arrives only after another relay has taken the shards over."""
    held, taken = asyncio.Event(), asyncio.Event()

    async def hold(_frame: bytes) -> bytes | None:
        held.set()
        await taken.wait()
        return None

    trapped.strike = hold
    async with trapped.pipeline.relay(batch_events=10, kafka_timeout_seconds=10, replica="sleeper"):
        await trapped.direct.until_held("sleeper")
        async with writing(migrated, 23, None) as events:
            await progress(trapped.direct, 15)
            trapped.strike_at = (api, stage)
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
    """The broker accepts everything, but reports an error for one partition, twice. Then it works normally."""

    async def refuse(answer: bytes) -> bytes | None:
        return first_refused(answer, code)

    await publish_through(trapped, migrated, (Api.PRODUCE, Stage.ANSWER), refuse)


@pytest.mark.parametrize("code", REFUSALS)
async def test_event_refused_at_each_attempt_parks_only_its_order(trapped: Trapped, code: int) -> None:
    async def refuse(request: bytes) -> bytes | None:
        return all_refused(request, code, holding=b"poison") if b"poison" in request else None

    trapped.strike, trapped.strike_at, trapped.once = refuse, (Api.PRODUCE, Stage.REQUEST), False
    # All in one partition: requests that are delayed here would leave a gap in another partition.
    before, poisoned, after = in_one_partition(3)
    others = [Event(order, 1) for order in (before, after, order_in(1), order_in(2), order_in(3))]
    own = [Event(poisoned, 1, payload=b"poison"), Event(poisoned, 2)]
    async with trapped.pipeline.relay(kafka_timeout_seconds=2):
        await trapped.direct.until_held()
        await write(trapped.direct.connection, [*others[:1], *own, *others[1:]])
        await trapped.direct.until_sent(len(others), seconds=60)
        await eventually(lambda: all_told(trapped.direct, len(others) + len(own)), 60, "two parked events")
        assert await trapped.direct.statuses() == {"SENT": len(others), "PARKED": len(own)}
        async with trapped.direct.reader() as reader:
            assert_in_sequence(trapped.direct, await reader.to_the_end(), others)


def in_one_partition(count: int) -> list[UUID]:
    """Return orders of shard 0 whose events go to the topic's first partition."""
    orders = (order_in(0) for _ in repeat(None))
    return list(islice((order for order in orders if partitions([str(order).encode()], 4) == [0]), count))


async def all_told(pipeline: Pipeline, count: int) -> bool:
    """Return whether no event is pending."""
    statuses = await pipeline.statuses()
    return "PENDING" not in statuses and sum(statuses.values()) == count


@pytest.mark.parametrize("code", [45, 59, 6, 999] if ALL else [45, 6])
async def test_an_error_of_a_whole_request_parks_nothing_and_loses_nothing(
    trapped: Trapped, migrated: Database, code: int
) -> None:
    async def refuse(request: bytes) -> bytes | None:
        return all_refused(request, code)

    await publish_through(trapped, migrated, (Api.PRODUCE, Stage.REQUEST), refuse)


async def publish_through(trapped: Trapped, database: Database, point: tuple[int, Stage], strike: Strike) -> None:
    """Publish events while the fault happens twice."""
    trapped.strike = strike
    async with trapped.pipeline.relay(batch_events=10, kafka_timeout_seconds=2):
        await trapped.direct.until_held()
        async with writing(database, 24, None) as events:
            for _ in range(2):
                await progress(trapped.direct, 15)
                trapped.struck.clear()
                trapped.strike_at = point
                await asyncio.wait_for(trapped.struck.wait(), 20)
        await assert_complete(trapped, events)


@asynccontextmanager
async def outage(trapped: Trapped, code: int) -> AsyncIterator[None]:
    """During the body, the broker refuses everything."""
    ended = asyncio.Event()

    async def refuse(request: bytes) -> bytes | None:
        if not ended.is_set():
            trapped.strike_at = (Api.PRODUCE, Stage.REQUEST)
        return all_refused(request, code)

    trapped.strike = refuse
    trapped.strike_at = (Api.PRODUCE, Stage.REQUEST)
    yield
    ended.set()
    trapped.strike_at = None


@pytest.mark.parametrize("code", [999, 2, 32] if ALL else [999])
async def test_long_outage_gives_up_no_event(trapped: Trapped, migrated: Database, code: int) -> None:
    async with trapped.pipeline.relay(batch_events=10, kafka_timeout_seconds=2) as relay:
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
    """The client itself retries the first of these errors, without a report."""
    async with trapped.pipeline.relay(kafka_timeout_seconds=1) as relay:
        await trapped.direct.until_held()
        async with outage(trapped, code):
            await write(trapped.direct.connection, [Event(order_in(0), 1)])

            async def named() -> bool:
                return any(name in publisher.state for publisher in relay.publishers())

            await eventually(named, 30, f"a shard that names {name}")
        await trapped.direct.until_sent(1)
