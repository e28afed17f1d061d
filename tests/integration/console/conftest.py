"""The services behind the console, with short time limits: a client of a blocked saga gets 202 at once."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.infrastructure.checkout import Checkout, serving_impatient_checkout
from tests.infrastructure.databases import Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the order service with its participants, and the operators' API."""
    async with serving_impatient_checkout(database) as checkout:
        yield checkout
