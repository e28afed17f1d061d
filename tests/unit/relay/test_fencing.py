"""Which producer is fenced before a take-over reads Kafka, what a refusal says, and when a batch is marked."""

from dataclasses import replace
from typing import Any

import pytest

from services.relay import store
from services.relay.domain.shards import Lease, LeaseLost, TakeOverRefused
from services.relay.kafka import positions
from services.relay.kafka.admin import Broker
from services.relay.publishing import takeover
from services.relay.publishing.group_commit import GroupCommit
from services.relay.publishing.shard_publisher import ShardPublisher
from services.relay.settings import RelaySettings

SETTINGS = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
OWN = SETTINGS.shard_name(0)
LEASE = Lease(shard=0, epoch=1, number=7, claimed=3, declared=True, transactional_id="group")


@pytest.mark.parametrize(
    ("lease", "fenced"),
    [(LEASE, "group"), (replace(LEASE, claimed=0), None), (replace(LEASE, transactional_id=OWN), None)],
    ids=["another's batch", "no batch", "its own batch"],
)
def test_producer_of_a_batch_under_way_is_fenced_unless_it_is_the_shards_own(lease: Lease, fenced: str | None) -> None:
    assert takeover.to_fence(SETTINGS, lease) == fenced


async def test_paused_replica_with_an_old_row_loses_its_lease_and_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def last_committed(*_: Any) -> int:
        return LEASE.number + 5

    class Overtaken:
        """Stands in for a connection to a database in which the shard has another epoch."""

        async def fetchval(self, *_: Any) -> None: ...

    monkeypatch.setattr(positions, "last_committed", last_committed)
    connection: Any = Overtaken()
    producer: Any = None
    with pytest.raises(LeaseLost):
        await takeover.reconcile_shard(connection, SETTINGS, LEASE, producer)


@pytest.fixture
def publisher() -> Any:
    watch: Any = None
    return ShardPublisher(SETTINGS, Broker(SETTINGS), watch, GroupCommit(SETTINGS, lambda: 4), 0)


@pytest.fixture
def steps(publisher: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the steps that reach the database or Kafka."""
    steps: list[str] = []

    async def fence_failed() -> None:
        steps.append("fence the group's")

    async def fence(_: Any, transactional_id: str) -> None:
        steps.append(f"fence {transactional_id}")

    async def cycle(*_: Any, events_max: int, **__: Any) -> None:
        assert events_max == 0
        steps.append("mark")

    async def note(_: Any, __: Any, transactional_id: str) -> None:
        steps.append(f"note {transactional_id}")

    async def release(*_: Any) -> None:
        steps.append("release")

    publisher._group.fence_failed = fence_failed
    monkeypatch.setattr(takeover, "fence", fence)
    monkeypatch.setattr(store, "cycle", cycle)
    monkeypatch.setattr(store, "note_transactional_id", note)
    monkeypatch.setattr(store, "release_lease", release)
    return steps


async def test_own_group_s_failed_producer_is_fenced_by_its_next_one(publisher: Any, steps: list[str]) -> None:
    """Any other producer with that id would fence the group of this replica."""
    await publisher._fence(replace(LEASE, transactional_id=publisher._group.transactional_id))
    assert steps == ["fence the group's"]
    await publisher._fence(LEASE)
    assert steps[1:] == ["fence group"]
    await publisher._fence(replace(LEASE, transactional_id=OWN))
    assert len(steps) == 2


async def test_batch_is_marked_before_another_transactional_id_is_recorded(publisher: Any, steps: list[str]) -> None:
    """Otherwise a take-over would fence the producer that the batch under way was not sent with."""
    for transactional_id in ("one", "one", "two"):
        await publisher._record_transactional_id(None, LEASE, 7, transactional_id)
    assert steps == ["mark", "note one", "mark", "note two"]


async def test_last_batch_is_marked_before_its_shard_is_released(publisher: Any, steps: list[str]) -> None:
    publisher.stop()
    await publisher._publish(None, LEASE, 7, None)
    assert steps == ["mark", "release"]


@pytest.mark.parametrize(("committed", "named"), [(None, "none"), (0, "0")])
async def test_refusal_of_a_take_over_names_the_numbers_of_kafka_and_the_database(
    monkeypatch: pytest.MonkeyPatch, committed: int | None, named: str
) -> None:
    async def last_committed(*_: Any) -> int | None:
        return committed

    async def check_lease(*_: Any) -> None: ...

    monkeypatch.setattr(positions, "last_committed", last_committed)
    monkeypatch.setattr(store, "check_lease", check_lease)
    connection: Any = None
    with pytest.raises(TakeOverRefused, match=f"Kafka's last batch is {named}, the database's is 7 with 3 events"):
        await takeover.reconcile_shard(connection, SETTINGS, LEASE, connection)


async def test_cycle_has_the_time_limit_that_it_is_given() -> None:
    class Slow:
        async def fetch(self, *_: Any, **options: float) -> list[Any]:
            limits.append(options)
            return []

    limits: list[dict[str, float]] = []
    bounds: dict[str, Any] = {"lease_seconds": 5, "events_max": 1, "bytes_max": 1, "in_transaction": True}
    connection: Any = Slow()
    await store.cycle(connection, LEASE, 7, **bounds, timeout_seconds=90)
    assert limits == [{"timeout": 90}]
