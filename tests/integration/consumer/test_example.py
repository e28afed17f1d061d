"""The example consumer in docs/events.md does what the page describes."""

import asyncio
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import asyncpg

from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.waiting import eventually
from tests.integration.consumer.platform import Platform, an_order, publish
from tests.integration.consumer.test_consuming import copied

PAGE = Path(__file__).parents[3] / "docs" / "events.md"


def example() -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(code)


def started(consuming: Platform, pipeline: Pipeline) -> "subprocess.Popen[bytes]":
    environment = {"DATABASE_URL": consuming.database.url, "KAFKA": pipeline.kafka, "TOPIC": pipeline.topic}
    program = subprocess.Popen([sys.executable, "-c", example()], env=os.environ | environment)
    consuming.reaper.process(program)
    return program


async def test_example_keeps_each_orders_status_and_repeated_records_change_nothing(
    consuming: Platform, pipeline: Pipeline
) -> None:
    source = random.Random(3)
    events = [event for _ in range(20) for event in an_order(source)]
    expected = {(event.order_id, event.sequence, event.status) for event in events}
    last = {event.order_id: (event.order_id, event.sequence, event.status) for event in events}
    await publish(pipeline, [*events, *an_order(source, ("shipped",))])
    program = started(consuming, pipeline)

    async def kept() -> bool:
        assert program.poll() is None
        try:
            rows = await consuming.connection.fetch("SELECT * FROM seen")
        except asyncpg.UndefinedTableError:
            return False
        assert {tuple(row) for row in rows} <= expected
        return {tuple(row) for row in rows} == set(last.values())

    try:
        await eventually(kept, 40, "every order's last status")
        await copied(pipeline)
        (final,) = an_order(source, ("paid",))
        last[final.order_id] = (final.order_id, 1, "PAID")
        expected.add(last[final.order_id])
        await publish(pipeline, [final])
        await eventually(kept, 40, "the order after the copies, and no other change")
    finally:
        program.terminate()
        await asyncio.to_thread(program.wait, 15)
        await consuming.connection.execute("DROP TABLE seen")
