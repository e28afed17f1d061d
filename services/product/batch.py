"""One batch of commands as one transaction: the order of locks and reads that the protocol's safety rests on."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.product import store
from services.product.domain import Command, HoldStock, OrderId, ProductId, RestoreStock, decide
from shared.contracts import commands as wire
from shared.participant.protocol import Outcome
from shared.postgres import Connection


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    if isinstance(command, wire.HoldStock):
        lines = tuple((ProductId(line.product_id), line.quantity) for line in command.lines)
        return HoldStock(OrderId(command.order_id), command.attempt, lines)
    return RestoreStock(OrderId(command.order_id))


async def execute(db: Connection, commands: Sequence[Command]) -> Sequence[Outcome]:
    """Decide and write a batch inside the caller's transaction; return an outcome a command.

    Gates are locked in a statement of their own after they were inserted, and everything is read after that:
    whoever waited for a lock sees what its holder wrote.
    """
    orders = sorted({command.order_id for command in commands})
    await store.GATES.open_gates(db, orders)
    closed, past = await store.GATES.lock_gates(db, orders)
    undone = [command.order_id for command in commands if command.undo and command.order_id not in closed]
    held = await store.read_holds(db, undone) if undone else {}
    products = {product for units in held.values() for product in units}
    products.update(product for command in commands if isinstance(command, HoldStock) for product, _ in command.lines)
    stock = await store.lock_stock(db, sorted(products)) if products else {}
    stored = await store.GATES.read_outcomes(db, orders)
    decision = decide(commands, closed, stored, stock, held, past)
    await store.write_decision(db, decision)
    return decision.verdict.outcomes


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply in one statement the holds that can be applied whatever becomes of the others; return their outcomes."""
    holds = [command for command in commands if isinstance(command, HoldStock) and not command.attempt]
    return await store.hold_at_once(db, holds) if holds else {}
