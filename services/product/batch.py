"""What a batch of commands locks, and which of them one statement applies."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from services.product import store
from services.product.domain import Batch, Command, HoldStock, OrderId, ProductId, RestoreStock
from shared.contracts import commands as wire
from shared.participant import executor
from shared.participant.protocol import Outcome
from shared.postgres.connections import Connection
from shared.slots import slot_of


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    if isinstance(command, wire.HoldStock):
        lines = tuple((ProductId(line.product_id), line.quantity) for line in command.lines)
        return HoldStock(OrderId(command.order_id), command.attempt, lines)
    return RestoreStock(OrderId(command.order_id))


def is_foreign(slots: Collection[int], command: Any) -> bool:
    """Return whether a wire command names a product outside these slots. A repair's undo names none."""
    if isinstance(command, wire.HoldStock):
        return any(slot_of(line.product_id) not in slots for line in command.lines)
    return isinstance(command, wire.RestoreStock) and any(slot_of(id_) not in slots for id_ in command.product_ids)


async def lock(db: Connection, commands: Sequence[Command], undone: Sequence[UUID], _now: datetime) -> Batch:
    """Lock the products that the commands name or that the orders to undo hold."""
    held = await store.read_holds(db, undone) if undone else {}
    products = {product for units in held.values() for product in units}
    products.update(product for command in commands if isinstance(command, HoldStock) for product, _ in command.lines)
    return Batch(await store.lock_stock(db, sorted(products)) if products else {}, held)


execute = partial(executor.execute, gates=store.GATES, lock=lock, write=store.write_batch)


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply, in one statement, the holds that succeed independently of all others; return their outcomes."""
    holds = [command for command in commands if isinstance(command, HoldStock)]
    return await store.hold_in_one_statement(db, holds) if holds else {}
