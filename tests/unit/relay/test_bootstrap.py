"""Which failures of a bootstrap are tried again, and how often."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.relay.domain.shards import LeaseLost
from services.relay.kafka.client import BrokerFailed
from services.relay.kafka.topics import TopicsRefused
from services.relay.publishing import bootstrap
from services.relay.settings import RelaySettings
from shared.process.exits import Exit
from shared.refusals import Unavailable

SETTINGS = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")


@pytest.mark.parametrize(
    ("errors", "tries", "status"),
    [
        ([LeaseLost("epoch 2"), BrokerFailed("fenced")], 3, Exit.DONE),
        ([BrokerFailed("fenced")] * 3, 3, Exit.FAILED),
        ([Unavailable("gone")], 1, Exit.FAILED),
        ([TopicsRefused("too few partitions")], 1, 1),
    ],
    ids=["fenced by a relay", "fenced each time", "no database", "wrong topic"],
)
async def test_bootstrap_is_tried_again_only_if_a_relay_may_have_fenced_it(
    monkeypatch: pytest.MonkeyPatch, errors: list[Exception], tries: int, status: int
) -> None:
    @asynccontextmanager
    async def connected(*_: Any) -> AsyncIterator[None]:
        yield

    async def all_shards(*_: Any) -> None:
        tried.append(None)
        if len(tried) <= len(errors):
            raise errors[len(tried) - 1]

    tried: list[None] = []
    monkeypatch.setattr(bootstrap, "connected", connected)
    monkeypatch.setattr(bootstrap, "_all_shards", all_shards)
    assert await bootstrap.bootstrap(SETTINGS) == status
    assert len(tried) == tries
