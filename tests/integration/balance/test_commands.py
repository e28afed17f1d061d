"""The promises to the order service about money: a balanced ledger, no overdraft, repeats, fences, replicas."""

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from tests.infrastructure.databases import Database
from tests.infrastructure.replicas import in_some_order, replicas
from tests.infrastructure.services import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def opened(client: Client, amount: int) -> str:
    user = uuid4().hex
    await client.post(f"/v1/accounts/{user}/charges", {"amount": amount})
    return user


def debit(order: str, user: str, amount: int, attempt: int = 1) -> dict[str, Any]:
    return {"type": "debit", "order_id": order, "attempt": attempt, "user_id": user, "amount": amount}


def refund(order: str) -> dict[str, Any]:
    return {"type": "refund", "order_id": order}


def order_id() -> str:
    return str(uuid4())


async def left(client: Client, user: str) -> int:
    return int((await client.get(f"/v1/accounts/{user}"))["balance"])


async def ledger(client: Client, user: str) -> list[Any]:
    """Return an account's entries, oldest first; check that they have no gaps and sum to its balance."""
    entries = (await client.all_items(f"/v1/accounts/{user}/entries", limit=100))[::-1]
    assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
    balance = 0
    for entry in entries:
        balance += entry["amount"]
        assert entry["balance_after"] == balance >= 0
    assert await left(client, user) == balance
    return entries


async def paid(client: Client, *orders: str) -> dict[str, int]:
    """Return what each order has paid, net of refunds."""
    holds = await client.holds(*orders)
    return {order: int(sum(map(int, holds.get(order, {}).values()))) for order in orders}


async def test_charge_debit_and_refund_are_entries_that_add_up(balance: Client) -> None:
    user, order = await opened(balance, 1000), order_id()
    assert await balance.command(debit(order, user, 400)) == [{"outcome": "applied", "result": {"balance": 600}}]
    assert await paid(balance, order) == {order: 400}
    assert await balance.command(refund(order)) == [{"outcome": "applied", "result": {}}]
    assert await paid(balance, order) == {order: 0}
    fields = ("kind", "amount", "counter_account", "order_id", "attempt", "balance_after")
    assert [tuple(entry.get(name) for name in fields) for entry in await ledger(balance, user)] == [
        ("charge", 1000, "funding", None, None, 1000),
        ("debit", -400, "sales", order, 1, 600),
        ("refund", 400, "sales", order, 0, 1000),
    ]


async def test_refused_debit_leaves_no_trace_and_fails_no_other_command_of_the_batch(balance: Client) -> None:
    user, order = await opened(balance, 1000), order_id()
    refused, applied = await balance.command(debit(order, user, 1001), debit(order_id(), user, 1000))
    assert refused["problem"].items() >= {"type": "/problems/insufficient-balance", "required": 1001}.items()
    assert refused["problem"]["available"] == 1000
    assert applied == {"outcome": "applied", "result": {"balance": 0}}
    assert len(await ledger(balance, user)) == 2
    assert await balance.holds(order) == {}


async def test_a_user_without_an_account_has_a_balance_of_0_and_gets_none(balance: Client) -> None:
    user = uuid4().hex
    refused, nothing = await balance.command(debit(order_id(), user, 1), debit(order_id(), user, 0))
    assert (refused["problem"]["required"], refused["problem"]["available"]) == (1, 0)
    assert nothing == {"outcome": "applied", "result": {"balance": 0}}
    assert (await balance.call("GET", f"/v1/accounts/{user}")).problem == "account-not-found"


async def test_a_repeated_batch_gets_identical_outcomes_and_changes_nothing(balance: Client) -> None:
    user = await opened(balance, 1000)
    batch = [debit(order_id(), user, 700), debit(order_id(), user, 700), debit(order_id(), user, 0)]
    outcomes = await balance.command(*batch)
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "refused", "applied"]
    await balance.post(f"/v1/accounts/{user}/charges", {"amount": 5000})
    assert await balance.command(*batch) == outcomes
    assert await left(balance, user) == 5300


async def test_after_a_charge_the_next_payment_is_a_new_attempt(balance: Client) -> None:
    user, order = await opened(balance, 100), order_id()
    await balance.command(debit(order, user, 500, attempt=1))
    await balance.post(f"/v1/accounts/{user}/charges", {"amount": 400})
    again, following = await balance.command(debit(order, user, 500, attempt=1), debit(order, user, 500, attempt=2))
    assert (again["outcome"], following["outcome"]) == ("refused", "applied")
    assert await left(balance, user) == 0


async def test_an_undo_gives_back_every_attempt_once(balance: Client) -> None:
    user, order = await opened(balance, 1000), order_id()
    await balance.command(debit(order, user, 100, attempt=1), debit(order, user, 200, attempt=2))
    for _ in range(3):
        await balance.command(refund(order))
    assert [entry["amount"] for entry in await ledger(balance, user)] == [1000, -100, -200, 300]


async def test_a_late_debit_after_its_undo_is_fenced_whatever_its_attempt(balance: Client) -> None:
    user, order = await opened(balance, 1000), order_id()
    await balance.command(refund(order))
    late = await balance.command(debit(order, user, 1, attempt=1), debit(order, user, 1, attempt=2))
    assert {outcome["problem"]["type"] for outcome in late} == {"/problems/fenced"}
    assert await left(balance, user) == 1000


async def test_concurrent_payments_never_overdraw(balance: Client) -> None:
    user = await opened(balance, 50)
    outcomes = await asyncio.gather(*(balance.command(debit(order_id(), user, 10)) for _ in range(20)))
    assert Counter(outcome["outcome"] for (outcome,) in outcomes) == {"applied": 5, "refused": 15}
    assert len(await ledger(balance, user)) == 6


async def test_replicas_that_work_on_crossing_accounts_neither_deadlock_nor_lose_an_update(
    balance: Client, database_url: str
) -> None:
    users = [await opened(balance, 25) for _ in range(6)]
    rng = random.Random(7)
    orders = [order_id() for _ in range(40)]
    debits = [debit(order, rng.choice(users), rng.randint(1, 9)) for order in orders]
    splits = REGISTRY.get_sample_value("batches_split_total")
    async with replicas("balance", database_url) as running:
        # Every replica gets every command three times, in a different order, while the accounts are charged.
        charges = [balance.post(f"/v1/accounts/{user}/charges", {"amount": 1}) for user in users * 3]
        answers, _ = await asyncio.gather(
            asyncio.gather(*(in_some_order(replica.command, debits * 3, n) for n, replica in enumerate(running))),
            asyncio.gather(*charges),
        )
        assert all(answer == answers[0] for answer in answers)
        assert {outcome["outcome"] for outcome in answers[0]} == {"applied", "refused"}
        work = [*map(refund, orders[::2]), *(debit(order_id(), rng.choice(users), 1) for _ in range(50))]
        await asyncio.gather(*(in_some_order(replica.command, work, n) for n, replica in enumerate(running)))
    assert REGISTRY.get_sample_value("batches_split_total") == splits, "a deadlock would have split a batch"
    for user in users:
        await ledger(balance, user)
    sales = await paid(balance, *orders, *(str(command["order_id"]) for command in work))
    assert not any(sales.get(order) for order in orders[::2])
    assert sum([await left(balance, user) for user in users]) + sum(sales.values()) == 6 * (25 + 3)


async def test_of_debits_that_together_pass_64_bits_one_is_paid(balance: Client) -> None:
    user = await opened(balance, 2**63 - 1)
    outcomes = await balance.command(*(debit(order_id(), user, 2**63 - 1) for _ in range(3)))
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "refused", "refused"]
    assert outcomes[2]["problem"].items() >= {"required": 2**63 - 1, "available": 0}.items()


async def test_refund_past_64_bits_fails_no_other_command_of_the_batch(balance: Client, database: Database) -> None:
    """No order can pay this much, but an operator may have written to the ledger."""
    rich, poor, broken, sound = await opened(balance, 2**63 - 1), await opened(balance, 5), order_id(), order_id()
    await balance.command(debit(sound, poor, 5))
    db = await asyncpg.connect(database.url)
    try:
        await db.execute(
            """INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id,
                                             attempt, balance_after)
               SELECT $1, n, gen_random_uuid(), 'debit', -9223372036854775807, 'sales', $2::uuid, n, 0
               FROM generate_series(2, 3) AS n""",
            *(rich, broken),
        )
    finally:
        await db.close()
    outcomes = await balance.command(refund(broken), refund(sound))
    assert [outcome["outcome"] for outcome in outcomes] == ["unknown", "applied"]
    assert (await left(balance, poor), await left(balance, rich)) == (5, 2**63 - 1)
