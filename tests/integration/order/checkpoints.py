"""The checkpoints at which a process deals with the world, so that a test can have something happen at each of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.order.engine.participants import Participants
from services.order.saga import Command
from shared.batcher import Batcher, Item, Result
from shared.participant import Outcome
from shared.refusals import Unavailable

Action = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """What most checkpoints mean."""


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints at which a replica deals with the world: before and after each command and each commit.

    At the one numbered `at`, `happens` is awaited.
    """

    at: int = -1
    happens: Action = _nothing
    passed: int = 0

    @property
    def reached(self) -> bool:
        """Whether the checkpoint came."""
        return self.passed > self.at >= 0

    async def passing(self) -> None:
        """One more."""
        self.passed += 1
        if self.passed == self.at + 1:
            await self.happens()


@dataclass(slots=True)
class Losses(Checkpoints):
    """Checkpoints at which what is on its way gets lost: before it arrives, or the answer to it."""

    lost: Callable[[int], bool] = bool

    async def passing(self) -> None:
        """One more; Unavailable if it is a loss."""
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

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        return asyncio.ensure_future(self._submit(item))

    async def _submit(self, item: Item) -> Result:
        await self._checkpoints.passing()
        result = await super().submit(item)
        await self._checkpoints.passing()
        return result
