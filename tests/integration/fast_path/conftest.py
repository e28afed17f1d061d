"""Participants on databases that a module's tests share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.integration.fast_path.participants import NAMES, ParticipantUnderTest, open_participant


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def participants(
    request: pytest.FixtureRequest, create_database: Callable[..., Database]
) -> AsyncIterator[tuple[ParticipantUnderTest, ParticipantUnderTest]]:
    """Yield each participant twice, each with its own database."""
    async with AsyncExitStack() as stack:
        one, other = [await open_participant(stack, request.param, create_database(migrated=True)) for _ in range(2)]
        yield one, other


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(create_database: Callable[..., Database]) -> AsyncIterator[ParticipantUnderTest]:
    async with AsyncExitStack() as stack:
        yield await open_participant(stack, "product", create_database(migrated=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balance(create_database: Callable[..., Database]) -> AsyncIterator[ParticipantUnderTest]:
    async with AsyncExitStack() as stack:
        yield await open_participant(stack, "balance", create_database(migrated=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coupon(create_database: Callable[..., Database]) -> AsyncIterator[ParticipantUnderTest]:
    async with AsyncExitStack() as stack:
        yield await open_participant(stack, "coupon", create_database(migrated=True))
