"""A producer publishes with as many partitions as the process knows of, and asks its cluster only for more."""

from typing import Any

import pytest

from services.relay.kafka import producer
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.producer import EventProducer
from services.relay.kafka.topics import TopicView
from services.relay.settings import RelaySettings


class Client:
    """Stands in for the library's producer, and for its client: the cluster has so many partitions."""

    def __init__(self, **_: Any) -> None:
        self.client = self
        self.there = 8
        self.asked = 0

    async def force_metadata_update(self) -> None:
        self.asked += 1

    async def partitions_for(self, _: str) -> set[int]:
        return set(range(self.there))


@pytest.mark.parametrize(
    ("known", "wanted", "asked"), [(4, 4, 0), (4, 0, 0), (8, 4, 0), (4, 8, 1)], ids=["same", "unknown", "fewer", "more"]
)
async def test_cluster_is_asked_only_for_added_partitions(
    monkeypatch: pytest.MonkeyPatch, known: int, wanted: int, asked: int
) -> None:
    opened = made(monkeypatch, known, wanted)
    await opened._keep_up()
    assert opened._producer.asked == asked
    assert opened._partitions == (8 if asked else known)


async def test_cluster_that_does_not_know_added_partitions_yet_fails_the_producer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = made(monkeypatch, 4, 9)
    with pytest.raises(BrokerFailed, match="has 8 partitions, not 9"):
        await opened._keep_up()


def made(monkeypatch: pytest.MonkeyPatch, known: int, wanted: int) -> Any:
    monkeypatch.setattr(producer, "KafkaProducer", Client)
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    opened: Any = EventProducer(settings, None, view=TopicView(partitions=wanted))
    opened._partitions = known
    return opened
