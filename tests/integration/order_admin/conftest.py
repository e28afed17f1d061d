"""A module's tests share one checkout with short time limits."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.infrastructure.checkout import Checkout, serving_impatient_checkout
from tests.infrastructure.databases import Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the services. A client waits for its saga so briefly that a blocked one gets 202. After fractions of a
    second, a command counts as unknown and a saga as stuck."""
    async with serving_impatient_checkout(database) as checkout:
        yield checkout
