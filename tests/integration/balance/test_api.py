"""The promises to clients about accounts and their ledger."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from yarl import URL

from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client
from tests.integration import hostile
from tests.integration.ids import AWKWARD, UNADDRESSABLE, at

pytestmark = pytest.mark.asyncio(loop_scope="module")

INT64_MAX = 2**63 - 1
ACCOUNTS = "/v1/accounts"


def account() -> str:
    return f"/v1/accounts/{uuid4().hex}"


async def charge(balance: Client, path: str, amount: int, key: str | None = None) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return await balance.call("POST", f"{path}/charges", {"amount": amount}, headers=headers)


async def test_the_first_charge_opens_the_account(balance: Client) -> None:
    path = account()
    assert (await balance.call("GET", path)).problem == "account-not-found"
    answer = await charge(balance, path, 700)
    assert answer.status == 201
    assert answer.body.items() >= {"number": 1, "kind": "charge", "amount": 700, "balance_after": 700}.items()
    assert answer.body.items() >= {"counter_account": "funding", "currency": "KRW"}.items()
    assert await balance.get(path) == {"user_id": path.rsplit("/", 1)[1], "balance": 700, "currency": "KRW"}


async def test_a_user_without_an_account_is_not_found(balance: Client) -> None:
    for path in (account(), f"{account()}/entries"):
        answer = await balance.call("GET", path)
        assert (answer.status, answer.problem) == (404, "account-not-found")


async def test_entries_are_listed_newest_first_page_by_page(balance: Client) -> None:
    path = account()
    for amount in range(1, 6):
        await charge(balance, path, amount)
    entries = await balance.all_items(f"{path}/entries", limit=2)
    assert [entry["number"] for entry in entries] == [5, 4, 3, 2, 1]
    assert [entry["balance_after"] for entry in entries] == [15, 10, 6, 3, 1]


async def test_concurrent_charges_are_all_counted(balance: Client) -> None:
    path = account()
    answers = await asyncio.gather(*(charge(balance, path, amount) for amount in range(1, 21)))
    assert {answer.status for answer in answers} == {201}
    assert sorted(answer.body["number"] for answer in answers) == list(range(1, 21))
    assert (await balance.get(path))["balance"] == 210


async def test_a_lifetime_s_charges_are_bounded_even_when_the_money_is_spent(balance: Client) -> None:
    path = account()
    assert (await charge(balance, path, INT64_MAX)).status == 201
    user, order = path.rsplit("/", 1)[1], str(uuid4())
    await balance.command({"type": "debit", "order_id": order, "attempt": 1, "user_id": user, "amount": INT64_MAX})
    answer = await charge(balance, path, 1)
    assert (answer.status, answer.problem) == (400, "balance-too-large")
    await balance.command({"type": "refund", "order_id": order})
    assert (await balance.get(path))["balance"] == INT64_MAX


async def test_copies_of_a_charge_with_one_key_have_one_effect_and_one_answer(balance: Client) -> None:
    path = account()
    answers = await asyncio.gather(*(charge(balance, path, 5, key) for key in ["key", '"key"'] * 10))
    assert {answer.status for answer in answers} == {201}
    assert len({str(answer.body) for answer in answers}) == 1
    assert (await balance.get(path))["balance"] == 5


async def test_a_key_with_another_body_is_refused(balance: Client) -> None:
    path = account()
    await charge(balance, path, 5, "key")
    answer = await charge(balance, path, 6, "key")
    assert (answer.status, answer.problem) == (422, "idempotency-key-reused")
    assert (await balance.get(path))["balance"] == 5


async def test_same_key_of_another_user_is_another_key(balance: Client) -> None:
    first, second = await charge(balance, account(), 5, "key"), await charge(balance, account(), 6, "key")
    assert (first.status, second.status) == (201, 201)


@pytest.mark.parametrize("key", ["", '""', "x" * 256, '"open', "tab\there"])
async def test_a_malformed_key_is_refused(balance: Client, key: str) -> None:
    answer = await balance.call("POST", f"{account()}/charges", {"amount": 1}, headers={"Idempotency-Key": key})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert answer.body["errors"][0]["pointer"] == "/headers/Idempotency-Key"


async def test_account_is_found_by_any_valid_user_id(balance: Client) -> None:
    for user in AWKWARD:
        made = await balance.call("POST", at(ACCOUNTS, user, "/charges"), {"amount": 5})
        assert (made.status, made.body["user_id"]) == (201, user)
        found = await balance.call("GET", at(ACCOUNTS, user))
        assert (found.status, found.body["user_id"], found.body["balance"]) == (200, user, 5)
        assert (await balance.call("GET", at(ACCOUNTS, user, "/entries"))).body["items"] == [made.body]


@pytest.mark.parametrize("user", UNADDRESSABLE)
async def test_account_with_an_id_that_a_proxy_changes_is_only_charged_if_it_exists(
    balance: Client, database: Database, user: str
) -> None:
    charges = at(ACCOUNTS, user, "/charges")
    answer = await balance.call("POST", charges, {"amount": 5})
    assert (answer.status, answer.problem) == (422, "validation-failed")
    assert [error["pointer"] for error in answer.body["errors"]] == ["/path/user_id"]
    assert (await balance.call("GET", at(ACCOUNTS, user))).problem == "account-not-found"
    db = await asyncpg.connect(database.url)
    await db.execute("INSERT INTO balances.accounts VALUES ($1, 0, 0, 0)", user)
    await db.close()
    assert (await balance.call("POST", charges, {"amount": 5})).status == 201
    assert (await balance.call("GET", at(ACCOUNTS, user))).body["balance"] == 5
    assert (await balance.call("GET", at(ACCOUNTS, user, "/entries"))).status == 200


async def test_an_account_is_not_opened_under_bytes_that_are_no_text(balance: Client) -> None:
    for segment in ("%ff", "%zy", "%c0%80"):
        path = f"{ACCOUNTS}/{segment}"
        assert (await balance.call("POST", URL(f"{path}/charges", encoded=True), {"amount": 5})).status == 404
        assert (await balance.call("GET", at(ACCOUNTS, segment))).status == 404


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE balances.entries SET amount = amount",
        "UPDATE balances.entries SET amount = 1 WHERE false",
        "DELETE FROM balances.entries",
        "TRUNCATE balances.entries",
    ],
)
async def test_the_ledger_can_not_be_rewritten_even_by_a_superuser(
    balance: Client, database: Database, statement: str
) -> None:
    await charge(balance, account(), 5)
    db = await asyncpg.connect(database.url)
    try:
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await db.execute(statement)
    finally:
        await db.close()


@pytest.mark.parametrize(
    "attack",
    [
        *hostile.bodies("/v1/accounts/mallory/charges", {"amount": 1}, "amount"),
        *hostile.limits("/internal/v1/holds"),
        *hostile.paths("/v1/accounts/", "account-not-found"),
    ],
    ids=str,
)
async def test_hostile_input_is_the_client_s_fault(balance: Client, attack: hostile.Attack) -> None:
    await hostile.withstand(balance, attack)
    assert (await balance.call("GET", "/v1/accounts/mallory")).status == 404


@pytest.mark.parametrize("attack", list(hostile.lists("/v1/accounts/rich/entries")), ids=str)
async def test_hostile_pages_of_a_ledger_are_the_client_s_fault(balance: Client, attack: hostile.Attack) -> None:
    await charge(balance, "/v1/accounts/rich", 5, "once")
    await hostile.withstand(balance, attack)
