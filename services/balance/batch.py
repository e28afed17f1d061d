"""One batch of commands as one transaction: the order of locks and reads that the protocol's safety rests on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.balance import store
from services.balance.domain import CHARGED_MAX, Command, Debit, OrderId, Refund, UserId, decide
from shared.contracts import commands as wire
from shared.participant.protocol import Outcome
from shared.postgres import Connection


def to_command(command: Any) -> Command:
    """Return the domain's command for a wire command."""
    order_id = OrderId(command.order_id)
    if isinstance(command, wire.Debit):
        return Debit(order_id, command.attempt, UserId(command.user_id), command.amount)
    return Refund(order_id)


async def execute(db: Connection, commands: Sequence[Command]) -> Sequence[Outcome]:
    """Decide and write a batch inside the caller's transaction; return an outcome a command.

    Gates are locked in a statement of their own after they were inserted, and everything is read after that:
    whoever waited for a lock sees what its holder wrote.
    """
    orders = sorted({command.order_id for command in commands})
    await store.GATES.open_gates(db, orders)
    closed, past = await store.GATES.lock_gates(db, orders)
    undone = [command.order_id for command in commands if command.undo and command.order_id not in closed]
    paid = await store.read_paid(db, undone) if undone else {}
    users = {user for amounts in paid.values() for user in amounts}
    users.update(command.user_id for command in commands if isinstance(command, Debit))
    accounts = await store.lock_accounts(db, sorted(users)) if users else {}
    stored = await store.GATES.read_outcomes(db, orders)
    decision = decide(commands, closed, stored, accounts, paid, past)
    await store.write_decision(db, decision)
    return decision.verdict.outcomes


async def fast_path(db: Connection, commands: Sequence[Command]) -> Mapping[UUID, Outcome]:
    """Apply in one statement the debits that can be applied whatever becomes of the others; return their outcomes."""
    debits = [command for command in commands if isinstance(command, Debit) and _plain(command)]
    sums: Counter[UserId] = Counter()
    for debit in debits:
        sums[debit.user_id] += debit.amount
    # What no account can have is no bigint either.
    debits = [debit for debit in debits if sums[debit.user_id] <= CHARGED_MAX]
    return await store.debit_at_once(db, debits) if debits else {}


def _plain(debit: Debit) -> bool:
    # An order's second payment finds its gate. A debit of nothing makes no entry.
    return debit.attempt <= 1 and debit.amount > 0
