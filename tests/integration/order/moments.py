"""The moments at which a process deals with the world, so that a test can have something happen at each of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.order.engine.participants import Participants
from services.order.saga import Command
from shared.batcher import Batcher, Item, Result
from shared.participant import Outcome
from shared.refusals import Unavailable

Moment = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """What most moments mean."""


@dataclass(slots=True)
class Moments:
    """The moments at which a replica deals with the world: before and after each command and each commit.

    At the one numbered `at`, `happens` is awaited.
    """

    at: int = -1
    happens: Moment = _nothing
    passed: int = 0

    @property
    def reached(self) -> bool:
        """Whether the moment came."""
        return self.passed > self.at >= 0

    async def come(self) -> None:
        """One more."""
        self.passed += 1
        if self.passed == self.at + 1:
            await self.happens()


@dataclass(slots=True)
class Losses(Moments):
    """Moments at which what is on its way gets lost: before it arrives, or the answer to it."""

    lost: Callable[[int], bool] = bool

    async def come(self) -> None:
        """One more; Unavailable if it is a loss."""
        self.passed += 1
        if self.lost(self.passed):
            raise Unavailable("lost on the way")


class WatchedParticipants(Participants):
    """The real participants, with a moment before and after each command."""

    def __init__(self, moments: Moments, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._moments = moments

    async def send(self, command: Command) -> Outcome:
        await self._moments.come()
        outcome = await super().send(command)
        await self._moments.come()
        return outcome


class WatchedBatcher(Batcher[Item, Result]):
    """A real batcher, with a moment before and after each item's commit."""

    def __init__(self, moments: Moments, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._moments = moments

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        return asyncio.ensure_future(self._submit(item))

    async def _submit(self, item: Item) -> Result:
        await self._moments.come()
        result = await super().submit(item)
        await self._moments.come()
        return result
