"""What a batch of commands locks, and which of them one statement applies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from services.balance import store
from services.balance.domain import CHARGED_MAX, Batch, Command, Debit, OrderId, Refund, UserId
from shared.contracts import commands as wire
from shared.participant import executor
from shared.participant.protocol import Outcome
from shared.postgres.connections import Connection


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    order_id = OrderId(command.order_id)
    if isinstance(command, wire.Debit):
        return Debit(order_id, command.attempt, UserId(command.user_id), command.amount)
    return Refund(order_id)


async def lock(db: Connection, commands: Sequence[Command], undone: Sequence[UUID], _now: datetime) -> Batch:
    """Lock the accounts that the commands name or that paid for the orders to undo."""
    paid = await store.read_paid(db, undone) if undone else {}
    users = {user for amounts in paid.values() for user in amounts}
    users.update(command.user_id for command in commands if isinstance(command, Debit))
    return Batch(await store.lock_accounts(db, sorted(users)) if users else {}, paid)


execute = partial(executor.execute, gates=store.GATES, lock=lock, write=store.write_batch)


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply, in one statement, the debits that succeed independently of all others; return their outcomes."""
    # A second payment's order already has a gate. A debit of 0 makes no entry.
    debits = [debit for debit in commands if isinstance(debit, Debit) and debit.attempt <= 1 and debit.amount > 0]
    sums: Counter[UserId] = Counter()
    for debit in debits:
        sums[debit.user_id] += debit.amount
    # A larger sum does not fit a bigint, and no account has that much.
    debits = [debit for debit in debits if sums[debit.user_id] <= CHARGED_MAX]
    return await store.debit_in_one_statement(db, debits) if debits else {}
