"""Every background loop of every service survives a bug in its rounds, counts it, and continues."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from deploy.console.figures.replicas import Replica, Replicas
from deploy.console.figures.sampler import Sampler
from deploy.consumer import runtime
from deploy.consumer.__main__ import Leader
from deploy.consumer.completeness import Completeness
from deploy.consumer.reader import Reader
from deploy.consumer.relay import Relay as ConsumersRelay
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.watermarks import Watermarks
from services.order.audit.passes import Auditor
from services.order.audit.schedule import AuditSchedule
from services.order.backlog import Backlog as OrderBacklog
from services.order.engine.admission import Admission, Lease
from services.order.engine.recovery import Recovery
from services.order.engine.registry import SagaRegistry
from services.order.expiry import Expiry
from services.relay import metrics, store
from services.relay.completeness.watermark import Watermark
from services.relay.kafka.admin import Broker
from services.relay.outbox_cleaner import OutboxCleaner
from services.relay.publishing.assignment import ShardAssigner
from services.relay.publishing.notifier import Notifier
from services.relay.publishing.topic_watch import TopicWatch
from services.relay.replay.worker import ReplayWorker
from services.relay.settings import RelaySettings
from shared.ids import uuid7
from shared.postgres.clocks import HostClock
from shared.postgres.connections import Pool
from shared.pruning import Pruner
from tests.infrastructure.waiting import eventually

NOWHERE: dict[str, Any] = {
    "database_url": "postgresql://nobody@127.0.0.1:1/x",
    "kafka_bootstrap_servers": "127.0.0.1:1",
}
RELAY = RelaySettings(**NOWHERE, watermark_interval_seconds=0.05, lease_seconds=1.0, poll_interval_seconds=0.01)
# The pool was not entered, so every use of it raises AssertionError, which counts as a bug.
BROKEN = Pool(RELAY, "broken")
CONSUMER = ConsumerSettings(**NOWHERE)
CONSUMERS_RELAYS = {CONSUMER.topic: ConsumersRelay(CONSUMER)}
CONSUMERS_BROKEN = runtime.Pool(CONSUMER)
SECONDS = 10.0
REPOSITORY = Path(__file__).parents[2]

Loop = Callable[[], Awaitable[object]]


def _missing(kind: type[Any]) -> Any:
    """Return an argument that the loop never uses, because its pool fails before."""
    return cast("Any", kind)


def recovery() -> Recovery:
    registry, lease = SagaRegistry(), Lease(0.03)
    lease.renewed(asked_at=float("inf"))
    return Recovery(
        uuid7(),
        BROKEN,
        _missing(SagaRegistry),
        Admission(registry, 10),
        lease_pool=BROKEN,
        host_clock=HostClock(),
        lease=lease,
        sweep_seconds=0.01,
    )


def audit() -> AuditSchedule:
    return AuditSchedule(uuid7(), BROKEN, Auditor(BROKEN, _missing(object), grace_seconds=1), interval_seconds=0.01)


def expiry() -> Expiry:
    registry = SagaRegistry()
    return Expiry(BROKEN, _missing(object), registry, Admission(registry, 10), interval_seconds=0.01)


def led(name: str) -> Loop:
    async def nothing() -> None:
        pass

    return consumers(name, lambda: Leader(CONSUMERS_BROKEN).run(name, nothing))


def consumers(name: str, work: Callable[[], Awaitable[None]]) -> Loop:
    return lambda: runtime.repeat(name, 0.01, work, asyncio.Event())


def followed() -> Callable[[], Awaitable[None]]:
    return Watermarks(CONSUMER, CONSUMERS_BROKEN, CONSUMERS_RELAYS, {CONSUMER.topic: deque([{}])}).follow


def broker() -> Broker:
    return Broker(RELAY)


async def _prune(*_: Any) -> list[UUID]:
    return []


async def _before(_db: Any) -> None:
    pass


async def _no_text(_replica: Replica) -> str:
    return cast("str", 1)


async def _no_addresses(_name: str) -> list[str]:
    return cast("list[str]", 1)


LOOPS: dict[str, Loop] = {
    "lease": lambda: recovery().keep_lease(),
    "sweep": lambda: recovery().sweep(),
    "expiry": lambda: expiry().run(),
    "audit": lambda: audit().run(),
    "outbox": lambda: OrderBacklog(BROKEN).run(),
    "pruner": lambda: Pruner(BROKEN, [], _before).run(),
    "backlog": lambda: metrics.measure_backlog(BROKEN, store.backlog),
    "cleaner": lambda: OutboxCleaner(RELAY, BROKEN).run(),
    "watermark": lambda: Watermark(RELAY, BROKEN, broker()).run(asyncio.Event()),
    "replay": lambda: ReplayWorker(RELAY, BROKEN, broker()).run(asyncio.Event()),
    "topics": lambda: TopicWatch(RELAY, broker(), BROKEN.connection).run(asyncio.Event()),
    "shards": lambda: ShardAssigner(RELAY, BROKEN, broker(), _missing(object)).run(asyncio.Event()),
    "gaps": led("gaps"),
    "completeness": led("completeness"),
    "prune": led("prune"),
    "watermarks": consumers("watermarks", followed()),
    "figures": lambda: Sampler(Replicas({"order": ["http://order"]}), _no_text).run(),
    "replicas": lambda: Replicas({"order": ["http://order"]}, _no_addresses).run(),
    "measures": consumers("measures", Completeness(CONSUMER, CONSUMERS_BROKEN, CONSUMERS_RELAYS).measure),
}
# Loops that need Kafka or their own connection, which this test doesn't have.
CUT_OFF: dict[str, Loop] = {
    "wakeup": lambda: Notifier(RELAY, list).run(),
    "reader": consumers("reader", Reader(CONSUMER, CONSUMERS_BROKEN).read),
}


def failed_rounds(loop: str, cause: str) -> float:
    labels = {"loop": loop, "cause": cause}
    values = [one.get_sample_value("background_failed_rounds_total", labels) for one in (REGISTRY, runtime.REGISTRY)]
    return sum(value or 0.0 for value in values)


async def outlives(loop: str, work: Loop, cause: str) -> None:
    before = failed_rounds(loop, cause)
    task = asyncio.ensure_future(work())

    async def counted() -> bool:
        if task.done():
            task.result()
        return failed_rounds(loop, cause) > before

    try:
        await eventually(counted, SECONDS, "a failed round in the metric")
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("loop", LOOPS)
async def test_loop_outlives_a_bug_in_its_round(loop: str) -> None:
    await outlives(loop, LOOPS[loop], "bug")


@pytest.mark.parametrize("loop", CUT_OFF)
async def test_loop_outlives_an_absent_dependency(loop: str) -> None:
    await outlives(loop, CUT_OFF[loop], "transient")


CONSOLE = sorted((REPOSITORY / "deploy" / "console").rglob("*.py"))
# Loops of one order or shard: tests/integration covers them.
ELSEWHERE = {"saga", "shard"}


def test_every_loop_is_tried_here_and_named_where_its_metric_is_explained() -> None:
    names = re.compile(r"LoopSupervisor\(\s*\"(\w+)\"")
    sources = [*REPOSITORY.glob("services/**/*.py"), *CONSOLE, REPOSITORY / "shared" / "pruning.py"]
    loops = {name for path in sources for name in names.findall(path.read_text())}
    consumer = (REPOSITORY / "deploy" / "consumer" / "__main__.py").read_text()
    of_consumer = set(re.findall(r"^ {12}\"(\w+)\": \(", consumer, re.M))
    assert of_consumer == {"reader", "gaps", "completeness", "prune", "measures", "watermarks"}
    assert loops | of_consumer <= {*LOOPS, *CUT_OFF, *ELSEWHERE}
    pages = (REPOSITORY / "docs" / "metrics.md", REPOSITORY / "deploy" / "console" / "README.md")
    explained = "".join(page.read_text() for page in pages)
    assert [name for name in loops if f"`{name}`" not in explained] == []
