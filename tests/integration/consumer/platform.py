"""A platform beside a relay: order events as the order service writes them, the reference consumer as processes, and
their database."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.store import migrate
from services.relay.process import serve
from shared.ids import uuid7
from shared.process.stopping import Stop
from tests.infrastructure import forks
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import PATIENCE_SECONDS, Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import eventually, free_port, listens

LEGAL = [
    ("placed", "paid"),
    ("paid",),
    ("paid", "refunded"),
    ("placed", "paid", "refunded"),
    ("placed", "expired"),
    ("placed", "cancelled"),
    ("placed",),
]
STATUSES = {"placed": "PENDING_PAYMENT"}
# So long ago that the events' minutes have ended: the watermark closes them immediately.
LONG_AGO = timedelta(minutes=10)
INSERT = """
    INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, occurred_at)
    VALUES ($1, $2, $3, $4, $5, clock_timestamp() - $6::interval)
"""


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """Return an event as the order service writes it."""

    order_id: UUID
    sequence: int
    name: str
    user_id: str
    total_amount: int
    version: str = "v1"
    event_id: UUID = field(default_factory=uuid7)

    @property
    def status(self) -> str:
        return STATUSES.get(self.name, self.name.upper())

    @property
    def payload(self) -> bytes:
        order = {"order_id": str(self.order_id), "user_id": self.user_id, "status": self.status, "lines": []}
        return json.dumps({**order, "total_amount": self.total_amount, "currency": "KRW"}).encode()

    async def insert(self, connection: asyncpg.Connection, ago: timedelta = LONG_AGO) -> None:
        type_ = f"order.{self.name}.{self.version}"
        await connection.execute(INSERT, self.event_id, self.order_id, self.sequence, type_, self.payload, ago)


def an_order(source: random.Random, names: Sequence[str] | None = None) -> list[OrderEvent]:
    """Return the events of a new order with one of the legal histories."""
    order_id, user, amount = uuid7(), f"user-{source.randrange(9)}", source.randrange(10_000)
    names = names or source.choice(LEGAL)
    return [OrderEvent(order_id, sequence, name, user, amount) for sequence, name in enumerate(names, 1)]


async def publish(pipeline: Pipeline, events: Sequence[OrderEvent], ago: timedelta = LONG_AGO) -> None:
    """Commit events in one transaction and notify the relay."""
    async with pipeline.connection.transaction():
        for event in events:
            await event.insert(pipeline.connection, ago)
        await pipeline.connection.execute("SELECT pg_notify('orders_outbox', '')")


async def insert_as(pipeline: Pipeline, event: OrderEvent, state: str) -> None:
    """Commit an event in a state that no relay publishes, given in SQL: `status = 'SKIPPED'`."""
    async with pipeline.connection.transaction():
        await event.insert(pipeline.connection)
        await pipeline.connection.execute(f"UPDATE orders.outbox SET {state} WHERE event_id = $1", event.event_id)


async def mark_sent(pipeline: Pipeline, event: OrderEvent) -> None:
    """Mark an event as published without a record on the topic, as if the record had been removed."""
    await insert_as(pipeline, event, "status = 'SENT', sent_at = clock_timestamp()")


@asynccontextmanager
async def relaying(pipeline: Pipeline, port: int | None = None) -> AsyncIterator[str]:
    """Run a relay with HTTP and a fast watermark; yield its address."""
    port, stop = port or free_port(), Stop()
    settings = pipeline.settings(port=port, watermark_interval_seconds=0.1)
    running = asyncio.create_task(serve(settings, stop))

    async def accepts() -> bool:
        if running.done():
            running.result()
        return listens("127.0.0.1", port)

    try:
        await eventually(accepts, PATIENCE_SECONDS, "the relay's listener")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await running


class Process:
    """One consumer as a process."""

    def __init__(self, environment: dict[str, str], log: Path, reaper: Reaper) -> None:
        self.port = free_port()
        self._log = log
        with log.open("ab") as output:
            own = environment | {"CONSUMER_PORT": str(self.port)}
            self._process = forks.start("deploy.consumer", environment=own, reaper=reaper, output=output)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return its log lines of one event."""
        found = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [one for one in found if one["event"] == event]

    async def logged(self, event: str, done: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Return its log lines of one event, once they are `done`. A line comes after the commit that it tells of."""

        async def written() -> list[dict[str, Any]] | None:
            found = self.lines(event)
            return found if done(found) else None

        found = await eventually(written, 30, f"the lines of {event}")
        assert found is not None
        return found

    def kill(self) -> None:
        """Kill the process without notice."""
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self) -> None:
        """Stop the process in an orderly way."""
        self._process.terminate()
        status = await asyncio.to_thread(self._process.wait, 15)
        assert status == 0, self._log.read_text()

    async def ready(self) -> None:
        """Wait until the consumer is ready."""

        async def says_so() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            try:
                return bool((await self.call("GET", "/readyz")).status == 200)
            except aiohttp.ClientError:
                return False

        await eventually(says_so, 30, "a consumer that is ready")

    async def call(self, method: str, path: str) -> Any:
        url = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(url) as session:
            return await Client(session, url).call(method, path)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    async def reached(self, metric: str, count: int) -> bool:
        """Return whether a metric is at least `count` by now."""
        try:
            return await self.metric(metric) >= count
        except aiohttp.ClientConnectionError:  # it doesn't listen yet
            return False


@dataclass
class Platform:
    """The platform's database, and the settings of its consumers."""

    database: Database
    connection: asyncpg.Connection
    pipeline: Pipeline
    relay_url: str
    folder: Path
    reaper: Reaper
    processes: list[Process] = field(default_factory=list)

    def environment(self, **changes: str) -> dict[str, str]:
        variables = {
            "CONSUMER_DATABASE_URL": self.database.as_role("platform_consumer"),
            "CONSUMER_RELAY_URL": self.relay_url,
            "CONSUMER_TOPIC": self.pipeline.topic,
            "CONSUMER_GROUP": self.pipeline.topic,
            "CONSUMER_SESSION_SECONDS": "6",
            "CONSUMER_CHECK_INTERVAL_SECONDS": "0.2",
            "KAFKA_BOOTSTRAP_SERVERS": self.pipeline.kafka,
        }
        if "CONSUMER_TOPICS" in changes:  # instead of one
            del variables["CONSUMER_TOPIC"], variables["CONSUMER_RELAY_URL"]
        return os.environ | variables | changes

    def start(self, **changes: str) -> Process:
        """Start a consumer."""
        log = self.folder / f"consumer-{len(self.processes)}.log"
        self.processes.append(Process(self.environment(**changes), log, self.reaper))
        return self.processes[-1]

    def settings(self, **changes: str) -> ConsumerSettings:
        names = {name.removeprefix("CONSUMER_").lower(): value for name, value in self.environment(**changes).items()}
        return ConsumerSettings.model_validate(
            {name: value for name, value in names.items() if name in ConsumerSettings.model_fields}
        )

    async def orders(self) -> dict[UUID, tuple[str, str, int]]:
        """Return each order's status, user and amount in the platform's database."""
        rows = await self.connection.fetch("SELECT order_id, status, user_id, total_amount FROM platform.orders")
        return {row["order_id"]: (row["status"], row["user_id"], row["total_amount"]) for row in rows}

    async def until_equal(self, events: Sequence[OrderEvent], seconds: float = 60) -> None:
        """Wait until every order equals its last event; then check that sales and inbox count each event once."""
        last = {event.order_id: (event.status, event.user_id, event.total_amount) for event in events}
        last = {event.order_id: last[event.order_id] for event in events}

        async def equal() -> bool:
            return await self.orders() == last

        try:
            await eventually(equal, seconds, "orders equal to their last events")
        except AssertionError:
            found = await self.orders()
            wrong = {
                order: (found.get(order), last.get(order))
                for order in last | found
                if found.get(order) != last.get(order)
            }
            raise AssertionError(f"{len(wrong)} orders differ: {list(wrong.items())[:5]}") from None
        paid = [amount for status, _, amount in last.values() if status in ("PAID", "REFUNDED")]
        back = [amount for status, _, amount in last.values() if status == "REFUNDED"]
        sales = await self.connection.fetchrow("SELECT * FROM platform.sales")
        counted = (
            (sales["paid_orders"], sales["paid_amount"], sales["refunded_orders"], sales["refunded_amount"])
            if sales
            else (0, 0, 0, 0)
        )
        assert counted == (len(paid), sum(paid), len(back), sum(back))

    async def until_proven(self, at_least: datetime | None = None, seconds: float = 60) -> dict[str, Any]:
        """Wait until a consumer reports that every minute before that time is proven; return its report."""
        timestamp = at_least or datetime.now(UTC).replace(second=0, microsecond=0)

        async def proven() -> dict[str, Any] | None:
            try:
                body = (await self.processes[-1].call("GET", "/v1/completeness")).body
            except aiohttp.ClientConnectionError:  # it doesn't listen yet
                return None
            up_to = body["proven_up_to"]
            return body if up_to and datetime.fromisoformat(up_to) >= timestamp else None

        found = await eventually(proven, seconds, f"completeness up to {timestamp}")
        assert found is not None
        return found


async def migrated(database: Database) -> ConsumerSettings:
    """Bring the platform's tables up to date; settings that lead to them, as a superuser, and to no broker."""
    values = {"database_url": database.url, "kafka_bootstrap_servers": "127.0.0.1:1"}
    settings = ConsumerSettings.model_validate(values)
    await migrate(settings.model_copy(update={"database_url": database.as_role("platform_migrator")}))
    return settings


@asynccontextmanager
async def platform(
    database: Database, pipeline: Pipeline, relay_url: str, folder: Path, reaper: Reaper
) -> AsyncIterator[Platform]:
    """Return a platform with empty tables."""
    await migrated(database)
    connection = await asyncpg.connect(database.url)
    await connection.execute("""
        TRUNCATE platform.offsets, platform.streams, platform.inbox, platform.orders, platform.sales,
                 platform.dead_letters, platform.forged, platform.watermarks, platform.buckets, platform.duties,
                 platform.restores
    """)
    there = Platform(database, connection, pipeline, relay_url, folder, reaper)
    try:
        yield there
    finally:
        for process in there.processes:
            process.signal(signal.SIGCONT)
            process.kill()
        await connection.close()
