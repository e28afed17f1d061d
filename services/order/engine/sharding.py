"""Sends commands to several product shards: each part to its own, with one outcome for all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from services.order.engine.participants import Participants
from services.order.product_shards import ProductShards, merge
from services.order.saga import Command, Participant
from shared.participant.protocol import Outcome


class ShardedParticipants(Participants):
    """Participants of which the product service has several shards.

    Each shard has its own queue, calls and metrics, so one that does not answer delays only the orders of its products.
    """

    def __init__(self, shards: ProductShards, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shards = shards

    def send(self, command: Command) -> Awaitable[Outcome]:
        """Send each part of a command in the next batch to its place; return the outcome of the whole.

        Raises Unavailable while the outcome of any part is unknown. A repeat of the command repeats all its parts.
        """
        if command.participant != Participant.PRODUCT:  # also a command that is addressed to one shard
            return super().send(command)
        parts = self._shards.split(command)
        if len(parts) == 1:
            return super().send(parts[0])
        return _merged(command, [super(ShardedParticipants, self).send(part) for part in parts])


async def _merged(command: Command, sent: Sequence[Awaitable[Outcome]]) -> Outcome:
    """Return the outcome of a command after those of all its parts. The first that failed raises."""
    results = await asyncio.gather(*sent, return_exceptions=True)
    known = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        known.append(result)
    return merge(command, known)


def participants_of(shards: ProductShards) -> Callable[..., Participants]:
    """Return what makes the participants: without product shards, the plain one."""
    return partial(ShardedParticipants, shards) if shards.several else Participants
