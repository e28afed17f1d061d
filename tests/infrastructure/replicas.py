"""Command desks of several replicas side by side, in small batches: many transactions that meet on the same rows."""

import importlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from pydantic import BaseModel

from shared.contracts.commands import BalanceCommands, CouponCommands, ProductCommands
from shared.participant.executor import CommandExecutor
from shared.postgres import Session

MODELS: Mapping[str, type[BaseModel]] = {
    "product": ProductCommands,
    "coupon": CouponCommands,
    "balance": BalanceCommands,
}
# Two batches of eight of forty orders mostly share some, and a hundred commands are still a dozen transactions.
BATCH_MAX = 8


class Desk:
    """One replica's desk, spoken to as over HTTP."""

    def __init__(self, desk: CommandExecutor[Any], model: type[BaseModel], to_command: Any) -> None:
        self._desk = desk
        self._model = model
        self._to_command = to_command

    async def command(self, commands: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Run commands and return their outcomes; fails if one is unknown, as a command in a deadlock would be."""
        body: Any = self._model.model_validate_json(orjson.dumps({"commands": commands}))
        outcomes = await self._desk.run([self._to_command(command) for command in body.commands])
        assert None not in outcomes
        return [outcome.wire() for outcome in outcomes if outcome]


async def in_some_order(
    command: Callable[[Sequence[Mapping[str, Any]]], Awaitable[Sequence[Mapping[str, Any]]]],
    commands: Sequence[Mapping[str, Any]],
    seed: int,
) -> list[Mapping[str, Any]]:
    """Run commands in the order that `seed` shuffles them to, and return the outcomes in the order given."""
    places = list(range(len(commands)))
    random.Random(seed).shuffle(places)
    outcomes = await command([commands[place] for place in places])
    return [outcome for _, outcome in sorted(zip(places, outcomes, strict=True), key=lambda pair: pair[0])]


@asynccontextmanager
async def replicas(name: str, database_url: str, count: int = 4) -> AsyncIterator[Sequence[Desk]]:
    """Open the desks of `count` replicas of `services.<name>`, each with a connection of its own."""
    batch = importlib.import_module(f"services.{name}.batch")
    settings = importlib.import_module(f"services.{name}.settings").Settings(database_url=database_url)
    async with AsyncExitStack() as stack:
        desks = []
        for number in range(count):
            session = await stack.enter_async_context(Session(settings, f"replica {number}"))
            desk = CommandExecutor[Any](session, batch.execute, batch.fast_path, batch_max=BATCH_MAX)
            desks.append(Desk(await stack.enter_async_context(desk), MODELS[name], batch.to_command))
        yield desks
