"""A module's tests share one checkout with short time limits."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.order.engine import participants, runner
from tests.infrastructure.checkout import Checkout, serving_checkout
from tests.infrastructure.databases import Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the services. A client waits for its saga so briefly that a blocked one gets 202. After fractions of a
    second, a command counts as unknown and a saga as stuck."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(participants, "CALL_TIMEOUT_SECONDS", 0.5)
        patch.setattr(runner, "BACKOFF_MAX_SECONDS", 0.2)
        async with serving_checkout(database, request_deadline_seconds=0.4) as checkout:
            yield checkout
