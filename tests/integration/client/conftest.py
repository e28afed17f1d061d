"""A server that misbehaves as told, and a client of it that is not patient."""

from collections.abc import AsyncIterator

import pytest_asyncio

from deploy.client import Client, Policy
from tests.integration.client.server import Server, misbehaving

# Short, so that a test need not wait as long as a customer would.
POLICY = Policy(deadline_seconds=5, attempt_seconds=0.3, first_pause_seconds=0.01, longest_pause_seconds=0.05)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """Serve what the test tells."""
    async with misbehaving() as server:
        yield server


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """Return a client of the server."""
    async with Client(server.url, policy=POLICY, token=lambda: "a-token") as client:
        yield client
