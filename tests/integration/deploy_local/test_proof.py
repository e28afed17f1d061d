"""The lines of `make consume` come from the consumer's answers, and end with the consumer."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from deploy.local.configuration import ROOT
from tests.integration.client.server import Server, answer, misbehaving, refuse

# The parent becomes another program, as `make consume` becomes the consumer.
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-m", "deploy.local.proof", sys.argv[1], str(os.getpid())])
os.execvp("cat", ["cat"])
"""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """Serve what the test tells."""
    async with misbehaving() as server:
        yield server


def completeness(up_to: str | None, **changed: Any) -> dict[str, Any]:
    """Return what the consumer answers."""
    nothing: dict[str, Any] = {"dead_letters": 0, "forged_count": 0, "lost_count": 0, "unproven": []}
    return {"proven_up_to": up_to, **nothing, **changed}


async def test_each_new_proof_is_said_once_until_the_consumer_ends(server: Server) -> None:
    first, second = "2026-01-05T09:31:00Z", "2026-01-05T09:32:00Z"
    server.will(refuse(503, "unavailable"), answer(200, completeness(None)))
    server.will(*[answer(200, completeness(first))] * 2)
    server.will(*[answer(200, completeness(second, forged_count=1))] * 100)
    consumer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, server.url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert consumer.stdin is not None
    assert consumer.stdout is not None
    assert (await consumer.stdout.readline()).decode().startswith("✓ complete up to 2026-01-05 09:31:00 UTC")
    assert (await consumer.stdout.readline()).decode().startswith("✗ complete up to 2026-01-05 09:32:00 UTC; 1 forged")
    consumer.stdin.close()
    await consumer.wait()
    # The end of the output: what looks at the consumer has ended too.
    assert await asyncio.wait_for(consumer.stdout.read(), 10) == b""
    server.acts.clear()
