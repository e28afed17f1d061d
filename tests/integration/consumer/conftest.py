"""A relay with its outbox and topic, and a consumer platform with its own database."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.integration.consumer.platform import Platform, platform, relaying
from tests.integration.relay.conftest import lavish, migrated, pipeline, real_pipeline

__all__ = ["lavish", "migrated", "pipeline", "real_pipeline"]

SEED = 20260105


@pytest.fixture(scope="module")
def platform_database(create_database: Callable[..., Database]) -> Database:
    return create_database()


@pytest.fixture
async def consuming(
    pipeline: Pipeline,
    platform_database: Database,
    tmp_path: Path,
    reaper: Reaper,
) -> AsyncIterator[Platform]:
    async with (
        relaying(pipeline) as relay_url,
        platform(platform_database, pipeline, relay_url, tmp_path, reaper) as there,
    ):
        yield there


@pytest.fixture
def source() -> random.Random:
    return random.Random(SEED)
