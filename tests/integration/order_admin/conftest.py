"""One world for the tests of a module, with short waits inside it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.order.engine import participants, runner
from tests.infrastructure.checkout import World, checkout
from tests.infrastructure.databases import Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(database: Database) -> AsyncIterator[World]:
    """The services. A client waits for its saga so briefly that it hears of those that are held up; commands count as
    unknown, and sagas as stuck, after parts of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(participants, "CALL_TIMEOUT_SECONDS", 0.5)
        patch.setattr(runner, "BACKOFF_MAX_SECONDS", 0.2)
        async with checkout(database, request_deadline_seconds=0.4) as world:
            yield world
