"""After an operator adds partitions to the topic, each order moves once and nothing is lost."""

import itertools
import json
from typing import Any

from structlog.testing import capture_logs

from services.relay.kafka.records import partitions
from tests.infrastructure.pipeline import Event, Pipeline, identity, order_in, write
from tests.infrastructure.waiting import eventually
from tests.integration.relay.kafka_tools import add_partitions

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1"


async def test_added_partitions_move_each_order_once(real_pipeline: Pipeline) -> None:
    """Two replicas, shards in a group and alone, with and without an event under way."""
    pipeline = real_pipeline
    orders = [order_in(number % 4) for number in range(40)]
    events: list[Event] = []

    async def more(count: int) -> None:
        for _ in range(count):
            new = [Event(order, 1 + len(events) // len(orders)) for order in orders]
            events.extend(new)
            await write(pipeline.connection, new)
            await pipeline.until_sent(len(events))

    with capture_logs() as logs:
        async with pipeline.relay(replica="a") as first, pipeline.relay(replica="b") as second:
            await pipeline.until_held()
            await more(3)
            await add_partitions(pipeline)
            await more(1)  # a replica that has not noticed yet continues as before

            async def noticed() -> bool:
                return {relay.broker.view.partitions for relay in (first, second)} == {8}

            await eventually(noticed, 20, "two replicas that know of the added partitions")
            await more(3)
            await pipeline.connection.execute(TERMINATE, "relay shard%")  # each shard is taken over once more
            await more(2)
            async with pipeline.reader() as reader:
                records = await reader.to_the_end()
    assert len(records) == len(events)
    assert [entry["now"] for entry in logs if entry["event"] == "topic.partitions_changed"] == [8, 8]
    for order in orders:
        places = places_of(records, str(order))
        old, new = (partitions([str(order).encode()], count)[0] for count in (4, 8))
        moves = [place for before, place in itertools.pairwise(places) if place != before]
        assert places[0] == old
        assert places[-1] == new
        assert moves == ([new] if old != new else [])


def places_of(records: list[Any], order: str) -> list[int]:
    """Return the partitions of an order's events, in sequence."""
    own = sorted((identity(record), record.partition) for record in records if record.key.decode() == order)
    return [partition for _, partition in own]


async def test_a_watermark_names_partitions_that_were_added(real_pipeline: Pipeline) -> None:
    pipeline = real_pipeline
    async with (
        pipeline.relay(watermark_interval_seconds=0.1),
        pipeline.reader(f"{pipeline.topic}.watermarks") as reader,
    ):
        await reader.until(1)
        await add_partitions(pipeline)

        async def named() -> bool:
            await reader.more()
            return len(json.loads(reader.records[-1].value)["partitions"]) == 8

        await eventually(named, 20, "a watermark with the added partitions")


async def test_replica_that_takes_a_shard_over_uses_the_recorded_partitions(real_pipeline: Pipeline) -> None:
    """The recorded number decides, not the one that a replica saw last."""
    pipeline = real_pipeline
    async with pipeline.relay() as relay:
        await pipeline.until_held()
        watch = relay._watch
        async with watch._turn:  # this replica makes no further checks
            await add_partitions(pipeline)
            assert relay.broker.view.partitions == 4
            await pipeline.connection.execute("UPDATE relay.topics SET partitions = 8")
        await watch.ensure()
        assert relay.broker.view.partitions == 8
