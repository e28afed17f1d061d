"""A relay with its outbox and topic, and a platform with a database of its own that consumes it."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.integration.consumer.platform import Platform, platform, relaying
from tests.integration.relay.conftest import lavish, migrated, world
from tests.integration.relay.world import World

__all__ = ["lavish", "migrated", "world"]

SEED = 20260105


@pytest.fixture(scope="module")
def platform_database(create_database: Callable[..., Database]) -> Database:
    return create_database(roles=False)


@pytest.fixture
async def consuming(
    world: World,
    platform_database: Database,
    tmp_path: Path,
    reaper: Reaper,
) -> AsyncIterator[Platform]:
    async with (
        relaying(world) as relay_url,
        platform(platform_database, world, relay_url, tmp_path, reaper) as there,
    ):
        yield there


@pytest.fixture
def source() -> random.Random:
    return random.Random(SEED)
