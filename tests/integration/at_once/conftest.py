"""Participants, each on databases that a module's tests share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.infrastructure.databases import Database
from tests.integration.at_once.places import NAMES, Place, open_place


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def places(
    request: pytest.FixtureRequest, create_database: Callable[..., Database]
) -> AsyncIterator[tuple[Place, Place]]:
    """Each participant twice, with a database each."""
    async with AsyncExitStack() as stack:
        one, other = [await open_place(stack, request.param, create_database()) for _ in range(2)]
        yield one, other


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def product(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "product", create_database())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balance(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "balance", create_database())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def coupon(create_database: Callable[..., Database]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield await open_place(stack, "coupon", create_database())
