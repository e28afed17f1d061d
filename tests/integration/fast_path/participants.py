"""A participant's parts: its database, and its two ways to execute commands."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from services.product.domain import HoldStock, OrderId, ProductId
from shared.ids import uuid7
from shared.participant.executor import CommandExecutor
from shared.participant.protocol import Outcome
from shared.postgres.connections import Session
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service

NAMES = ("product", "coupon", "balance")
# All columns except times, and ids that the participant generates.
ROWS = {
    "product": (
        "SELECT product_id, stock, put_in FROM products.products ORDER BY product_id",
        "SELECT order_id, product_id, quantity, unit_price, status FROM products.holds ORDER BY order_id, product_id",
        "SELECT order_id, closed FROM products.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM products.outcomes ORDER BY order_id, type, attempt",
    ),
    "coupon": (
        "SELECT coupon_id, status, order_id, discount_amount, held_at IS NULL FROM coupons.coupons ORDER BY coupon_id",
        "SELECT order_id, closed FROM coupons.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM coupons.outcomes ORDER BY order_id, type, attempt",
    ),
    "balance": (
        "SELECT user_id, balance, charged, entry_count FROM balances.accounts ORDER BY user_id",
        "SELECT user_id, number, kind, amount, counter_account, order_id, attempt, balance_after FROM balances.entries"
        " ORDER BY user_id, number",
        "SELECT order_id, closed FROM balances.gates ORDER BY order_id",
        "SELECT order_id, type, attempt, applied, body FROM balances.outcomes ORDER BY order_id, type, attempt",
    ),
}


@dataclass(frozen=True, slots=True)
class ParticipantUnderTest:
    """A participant's database, and its two ways to execute commands."""

    name: str
    session: Session
    other_session: Session
    executor: CommandExecutor[Any]

    @property
    def batch(self) -> Any:
        """Return the service's module that executes batches."""
        return import_module(f"services.{self.name}.batch")

    async def decide(self, commands: Sequence[Any]) -> Sequence[Outcome]:
        """Run the commands as one batch, on the general path."""
        async with self.session.transaction() as db:
            outcomes: Sequence[Outcome] = await self.batch.execute(db, commands)
        return outcomes

    async def rows(self) -> list[list[tuple[Any, ...]]]:
        """Return all stored rows, without times."""
        async with self.session.transaction() as db:
            return [[tuple(row.values()) for row in await db.fetch(query)] for query in ROWS[self.name]]


async def open_participant(stack: AsyncExitStack, name: str, database: Database) -> ParticipantUnderTest:
    """Open a participant on its own database, until the stack ends."""
    url = migrate_service(name, database)
    settings_ = import_module(f"services.{name}.settings").Settings(database_url=url)
    session, other = [await stack.enter_async_context(Session(settings_, "fast path")) for _ in range(2)]
    batch = import_module(f"services.{name}.batch")
    executor = await stack.enter_async_context(CommandExecutor[Any](session, batch.execute, batch.fast_path))
    return ParticipantUnderTest(name, session, other, executor)


def hold(product_id: str, quantity: int) -> HoldStock:
    """Return a command of a new order."""
    return HoldStock(OrderId(uuid7()), 0, ((ProductId(product_id), quantity),))
