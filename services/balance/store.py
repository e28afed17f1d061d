"""One function per query of queries.sql; each takes a connection, so that its caller owns the transaction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from services.balance.domain import COUNTER_ACCOUNTS, Account, Batch, Debit, Entry, OrderId, UserId
from shared.encoding import to_json
from shared.ids import uuid7
from shared.participant.gates import Gates, gate_queries
from shared.participant.protocol import Outcome
from shared.participant.routes import book_check
from shared.postgres.connections import Connection, Row, load_queries

SQL = {**gate_queries("balances", "order_id"), **load_queries(Path(__file__).parent / "queries.sql")}
GATES = Gates(SQL)


async def open_account(db: Connection, user_id: str) -> None:
    """Open an account for the user unless there is one."""
    await db.execute(SQL["open_account"], user_id)


async def get_account(db: Connection, user_id: str) -> Row | None:
    """Return an account's balance or None."""
    return await db.fetchrow(SQL["get_account"], user_id)


async def get_charge(db: Connection, user_id: str, idempotency_key: str) -> Row | None:
    """Return the user's charge with this key or None."""
    return await db.fetchrow(SQL["get_charge"], user_id, idempotency_key)


async def list_entries(db: Connection, user_id: str, before: int, limit: int) -> list[Row]:
    """Return up to `limit` entries with a number below `before`, newest first."""
    return await db.fetch(SQL["list_entries"], user_id, before, limit)


async def read_paid(db: Connection, orders: Sequence[UUID]) -> dict[OrderId, dict[UserId, int]]:
    """Return what each order paid, net of refunds, by account."""
    paid: dict[OrderId, dict[UserId, int]] = {}
    for row in await db.fetch(SQL["read_paid"], orders):
        paid.setdefault(row["order_id"], {})[row["user_id"]] = int(row["amount"])
    return paid


async def lock_accounts(db: Connection, users: Sequence[UserId]) -> dict[UserId, Account]:
    """Lock the accounts in order of id; return the existing ones."""
    return {row["user_id"]: Account(*row.values()) for row in await db.fetch(SQL["lock_accounts"], users)}


async def write_accounts(db: Connection, accounts: Sequence[Account]) -> None:
    """Set the balance, charges and number of entries of locked accounts."""
    await db.execute(
        SQL["write_accounts"],
        [account.user_id for account in accounts],
        [account.balance for account in accounts],
        [account.charged for account in accounts],
        [account.entry_count for account in accounts],
    )


async def write_entries(db: Connection, entries: Sequence[Entry]) -> list[Row]:
    """Append entries; return them as stored."""
    return await db.fetch(
        SQL["write_entries"],
        [entry.user_id for entry in entries],
        [entry.number for entry in entries],
        [uuid7() for _ in entries],
        [entry.kind for entry in entries],
        [entry.amount for entry in entries],
        [COUNTER_ACCOUNTS[entry.kind] for entry in entries],
        [entry.order_id for entry in entries],
        [entry.attempt for entry in entries],
        [entry.balance_after for entry in entries],
        [entry.idempotency_key for entry in entries],
    )


async def debit_in_one_statement(db: Connection, debits: Sequence[Debit]) -> dict[UUID, Outcome]:
    """Debit the accounts that can pay all their debits; return the outcomes of their orders."""
    sums: dict[UserId, int] = {}
    counts: dict[UserId, int] = {}
    amounts_up_to, places = [], []
    for debit in debits:
        sums[debit.user_id] = sums.get(debit.user_id, 0) + debit.amount
        counts[debit.user_id] = counts.get(debit.user_id, 0) + 1
        amounts_up_to.append(sums[debit.user_id])
        places.append(counts[debit.user_id])
    rows = await db.fetch(
        SQL["debit_in_one_statement"],
        sorted(debit.gate for debit in debits),
        [debit.gate for debit in debits],
        [debit.attempt for debit in debits],
        [uuid7() for _ in debits],
        [debit.user_id for debit in debits],
        [debit.amount for debit in debits],
        amounts_up_to,
        places,
        [sums[debit.user_id] for debit in debits],
        [counts[debit.user_id] for debit in debits],
    )
    return {row["order_id"]: Outcome(True, {"balance": row["balance_after"]}) for row in rows}


async def list_holds(db: Connection, after: UUID, until: UUID, limit: int) -> list[dict[str, Any]]:
    """Return the current holds of up to `limit` orders after `after` and up to `until`, by order, ready for JSON."""
    rows = await db.fetch(SQL["list_holds"], after, until, limit)
    return [
        {
            "order_id": row["order_id"],
            "holds": {user_id: to_json(int(amount)) for user_id, amount in row["holds"].items()},
        }
        for row in rows
    ]


async def check_books(db: Connection) -> dict[str, Any]:
    """Return this service's own checks and totals, as shared/contracts/books.py describes them."""
    row = await db.fetchrow(SQL["read_totals"])
    assert row is not None
    totals = {name: int(value) for name, value in row.items()}
    uneven = totals["accounts"] + totals["funding"] + totals["sales"] or totals["accounts"] - totals["balances"]
    accounts = await db.fetch(SQL["check_accounts"])
    return {
        "checks": [
            book_check("balance = sum of entries, numbered without gaps", accounts),
            {"name": "the ledger sums to zero", "violations": int(uneven != 0), "examples": [totals] if uneven else []},
        ],
        "totals": totals,
    }


async def write_batch(db: Connection, batch: Batch) -> None:
    """Write what a batch changes: at most two statements, however large the batch."""
    if batch.entries:
        await write_entries(db, batch.entries)
    if changed := batch.changed:
        await write_accounts(db, changed)
