"""A failed shard's state names the cause."""

import pytest

from services.relay.domain.events import EventsRefused
from services.relay.domain.shards import TakeOverRefused
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import TopicsRefused
from services.relay.publishing.failures import ShardFailures
from services.relay.publishing.group_commit import GroupRefused
from shared.refusals import Unavailable


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (GroupRefused("x"), "refused-events"),
        (EventsRefused("x", [], too_large=False), "refused-events"),
        (TopicsRefused("x"), "topics-refused"),
        (TakeOverRefused("x"), "take-over-refused"),
        (Unavailable("x"), "database"),
        (BrokerFailed("x"), "broker"),
        (ValueError("x"), "bug"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_state_after_a_failure_names_its_cause(error: Exception, cause: str) -> None:
    assert ShardFailures(0).failed(error, progress=False).startswith(f"waiting after {cause}: ")
