"""What an operator may ask to be published again."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.relay.domain.refusals import ReplayTopicNotAllowed
from services.relay.replay import api
from services.relay.replay.api import NewReplay
from services.relay.replay.store import Selection
from services.relay.settings import RelaySettings
from shared.contracts.events import EVENTS
from shared.operators import Who

REQUEST: dict[str, Any] = {"actor": "ann", "reason": "a new consumer", "topic": "orders.v1.again"}


@pytest.mark.parametrize("type_", EVENTS)
def test_each_published_type_can_be_replayed(type_: str) -> None:
    assert NewReplay.model_validate({**REQUEST, "type": type_}).type == type_


def test_refusal_of_an_unpublished_type_lists_the_published_ones() -> None:
    with pytest.raises(ValidationError, match=r"must be one of .*order\.paid"):
        NewReplay.model_validate({**REQUEST, "type": "order.lost.v1"})


@pytest.mark.parametrize("topic", ["orders.v1", "orders.v1.positions", "orders.v1.watermarks", "__offsets", ".", ".."])
async def test_replay_into_a_topic_of_the_relay_or_of_kafka_is_refused(topic: str) -> None:
    """Consumers of the relay's topics are promised each event once."""
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    pool: Any = None
    with pytest.raises(ReplayTopicNotAllowed):
        await api.start(settings, pool, topic, Selection(type="order.paid.v1"), Who("ann", "a new consumer"))
