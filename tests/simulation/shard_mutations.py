"""Makes the patches that remove rules of product shards: how a command is split, and when its outcome is known."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from services.order import product_shards
from services.order.engine import sharding
from services.order.product_shards import ProductShards
from services.order.saga import HOLD, Command
from shared.fast_dataclass import replace as changed
from shared.participant.protocol import Outcome
from shared.slots import SLOTS
from tests.simulation.loop import current
from tests.simulation.mutations import Patch, replace


def know_without_all_parts() -> Patch:
    """Take the outcome of a command as known if that of any part is."""
    original = sharding._merged

    async def merged(command: Command, sent: Sequence[Awaitable[Outcome]]) -> Outcome:
        results = await asyncio.gather(*sent, return_exceptions=True)
        known = [result for result in results if isinstance(result, Outcome)]
        if not known or (command.type == HOLD.do and all(outcome.applied for outcome in known)):
            return await original(command, sent)  # there are no prices without the other parts
        return product_shards.merge(command, known)

    return replace(sharding, "_merged", merged)


def change_undos(change: Callable[[ProductShards, list[Command]], list[Command]]) -> Patch:
    """Change the parts of undos."""
    original = ProductShards.split

    def split(shards: ProductShards, command: Command) -> list[Command]:
        parts = original(shards, command)
        return parts if command.type == HOLD.do else change(shards, parts)

    return replace(ProductShards, "split", split)


def to_the_next_shard(shards: ProductShards, parts: list[Command]) -> list[Command]:
    places = shards.places
    return [changed(part, participant=places[(places.index(part.participant) + 1) % len(places)]) for part in parts]


def slots_of_each_process() -> Patch:
    """Compute slots in each process by a hash of its own, as Python's hash() is."""
    return replace(product_shards, "slot_of", lambda name: crc32((name + current.get().name).encode()) % SLOTS)
