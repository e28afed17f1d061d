"""Command executors of several replicas with small batches: many concurrent transactions contend for the same rows."""

import importlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.order.saga import Participant
from shared.postgres.connections import Session
from tests.infrastructure.in_process_participants import InProcessParticipant

# Of forty orders, two batches of eight mostly share some, and a hundred commands still need a dozen transactions.
BATCH_MAX = 8


async def in_some_order(
    command: Callable[[Sequence[Mapping[str, Any]]], Awaitable[Sequence[Mapping[str, Any]]]],
    commands: Sequence[Mapping[str, Any]],
    seed: int,
) -> list[Mapping[str, Any]]:
    """Run commands in the order that `seed` shuffles them to; return the outcomes in the given order."""
    places = list(range(len(commands)))
    random.Random(seed).shuffle(places)
    outcomes = await command([commands[place] for place in places])
    return [outcome for _, outcome in sorted(zip(places, outcomes, strict=True), key=lambda pair: pair[0])]


@asynccontextmanager
async def replicas(name: str, database_url: str, count: int = 4) -> AsyncIterator[Sequence[InProcessParticipant]]:
    """Open `count` replicas of `services.<name>`, each with its own connection."""
    settings = importlib.import_module(f"services.{name}.settings").Settings(database_url=database_url)
    async with AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            session = await stack.enter_async_context(Session(settings, f"replica {number}"))
            replica = InProcessParticipant(Participant(name), session, batch_max=BATCH_MAX)
            opened.append(await stack.enter_async_context(replica))
        yield opened
