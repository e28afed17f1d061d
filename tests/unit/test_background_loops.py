"""Every background loop of every service outlives a bug in its rounds, counts it, and goes on."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from deploy.consumer import __main__ as consumer
from deploy.consumer import duty
from deploy.consumer.completeness import Completeness
from deploy.consumer.reader import Reader
from deploy.consumer.relay import Relay as ConsumersRelay
from deploy.consumer.settings import ConsumerSettings
from services.order.audit.passes import Auditor
from services.order.audit.schedule import AuditSchedule
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
from shared.host_clock import HostClock
from shared.ids import uuid7
from shared.postgres import Pool
from shared.pruning import Pruner
from tests.infrastructure.waiting import eventually

NOWHERE: dict[str, Any] = {
    "database_url": "postgresql://nobody@127.0.0.1:1/x",
    "kafka_bootstrap_servers": "127.0.0.1:1",
}
RELAY = RelaySettings(**NOWHERE, watermark_interval_seconds=0.05, lease_seconds=1.0, poll_interval_seconds=0.01)
CONSUMER = ConsumerSettings(**NOWHERE)
# Nobody has entered it, so that every use of it raises AssertionError: as good a bug as any.
BROKEN = Pool(RELAY, "broken")
SECONDS = 10.0
REPOSITORY = Path(__file__).parents[2]

Loop = Callable[[], Awaitable[object]]


def _missing(kind: type[Any]) -> Any:
    """What a loop is given and does not come to use, as its pool breaks before."""
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


def duty_of(name: str) -> Loop:
    async def nothing() -> None:
        pass

    return lambda: duty.repeat(name, "one", BROKEN, 0.01, asyncio.Event(), nothing)


def broker() -> Broker:
    return Broker(RELAY, 4)


async def _prune(*_: Any) -> list[UUID]:
    return []


async def _before(_db: Any) -> None:
    pass


LOOPS: dict[str, Loop] = {
    "lease": lambda: recovery().keep_lease(),
    "sweep": lambda: recovery().sweep(),
    "expiry": lambda: expiry().run(),
    "audit": lambda: audit().run(),
    "outbox": lambda: audit().run(),
    "pruner": lambda: Pruner(BROKEN, [], _before).run(),
    "backlog": lambda: metrics.measure_backlog(BROKEN, store.backlog),
    "cleaner": lambda: OutboxCleaner(RELAY, BROKEN).run(),
    "watermark": lambda: Watermark(RELAY, BROKEN, broker()).run(asyncio.Event()),
    "replay": lambda: ReplayWorker(RELAY, BROKEN, broker()).run(asyncio.Event()),
    "topics": lambda: TopicWatch(RELAY, 4, broker(), BROKEN.connection).run(asyncio.Event()),
    "shards": lambda: ShardAssigner(RELAY, BROKEN, broker(), _missing(object)).run(asyncio.Event()),
    "gaps": duty_of("gaps"),
    "completeness": duty_of("completeness"),
    "prune": duty_of("prune"),
    "measures": lambda: consumer.measure(Completeness(CONSUMER, BROKEN, ConsumersRelay(CONSUMER))),
}
# What they need is out of reach: Kafka, or a connection of their own.
CUT_OFF: dict[str, Loop] = {
    "wakeup": lambda: Notifier(RELAY, list).run(),
    "reader": lambda: Reader(CONSUMER, BROKEN).run(asyncio.Event()),
}


def failed_rounds(loop: str, cause: str) -> float:
    return REGISTRY.get_sample_value("background_failed_rounds_total", {"loop": loop, "cause": cause}) or 0.0


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
async def test_loop_outlives_what_it_needs_being_away(loop: str) -> None:
    await outlives(loop, CUT_OFF[loop], "transient")


# Of one order or shard: tests/integration drives them.
ELSEWHERE = {"saga", "shard", "watermarks"}


def test_every_loop_is_tried_here_and_named_where_its_metric_is_explained() -> None:
    names = re.compile(r"LoopSupervisor\(\s*\"(\w+)\"")
    sources = [*REPOSITORY.glob("services/**/*.py"), REPOSITORY / "shared" / "pruning.py"]
    loops = {name for path in sources for name in names.findall(path.read_text())}
    consumers = {name for path in REPOSITORY.glob("deploy/**/*.py") for name in names.findall(path.read_text())}
    assert loops | consumers <= {*LOOPS, *CUT_OFF, *ELSEWHERE}
    explained = (REPOSITORY / "docs" / "metrics.md").read_text()
    assert [name for name in loops if f"`{name}`" not in explained] == []
