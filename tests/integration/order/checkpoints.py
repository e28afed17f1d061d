"""Checkpoints before and after each command and commit of a process, at which a test can inject an event."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.order.engine.participants import Participants
from services.order.saga import Command
from shared.batcher import Batcher, Item, Result
from shared.participant.protocol import Outcome
from shared.refusals import Unavailable
from shared.tracing.spans import Span

Action = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """Do nothing, as usual at a checkpoint."""


@dataclass(slots=True)
class Checkpoints:
    """Counts the checkpoints that a replica passes, and awaits `happens` at number `at`, counted from 0."""

    at: int = -1
    happens: Action = _nothing
    passed: int = 0

    @property
    def reached(self) -> bool:
        """Return whether the replica has passed checkpoint `at`."""
        return self.passed > self.at >= 0

    async def passing(self) -> None:
        """Pass a checkpoint."""
        self.passed += 1
        if self.passed == self.at + 1:
            await self.happens()


@dataclass(slots=True)
class Losses(Checkpoints):
    """Checkpoints at which a message or its answer is lost; `lost` decides it by number, counted from 1."""

    lost: Callable[[int], bool] = bool

    async def passing(self) -> None:
        """Pass a checkpoint. Raises Unavailable if it loses the message."""
        self.passed += 1
        if self.lost(self.passed):
            raise Unavailable("lost on the way")


class WatchedParticipants(Participants):
    """The real participants, with a checkpoint before and after each command."""

    def __init__(self, checkpoints: Checkpoints, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._checkpoints = checkpoints

    async def send(self, command: Command) -> Outcome:
        await self._checkpoints.passing()
        outcome = await super().send(command)
        await self._checkpoints.passing()
        return outcome


class WatchedBatcher(Batcher[Item, Result]):
    """A real batcher, with a checkpoint before and after each item's commit."""

    def __init__(self, checkpoints: Checkpoints, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._checkpoints = checkpoints

    def submit(self, item: Item, span: Span | None = None) -> "asyncio.Future[Result]":
        return asyncio.ensure_future(self._submit(item, span))

    async def _submit(self, item: Item, span: Span | None) -> Result:
        await self._checkpoints.passing()
        result = await super().submit(item, span)
        await self._checkpoints.passing()
        return result
