"""The balance service over HTTP: parse → use case → reply."""

from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from services.balance import store
from services.balance.domain import AccountNotFound, BalanceTooLarge, UserId, charge
from shared.contracts.scopes import Scope
from shared.contracts.types import Page, PositiveAmount, Wire, check_addressable
from shared.encoding import INT64_MAX
from shared.http.callers import caller
from shared.http.idempotency import KEY_DESCRIPTION, IdempotencyKeyReused, parse_key
from shared.http.problems import ValidationFailed
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import decode_cursor, encode_cursor, path_id, read_body, read_query
from shared.identity.callers import SIGNED_IN
from shared.notation import Timestamp
from shared.postgres.connections import Connection, Pool, Row
from shared.slots import Misdirected, Ownership

Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]


class NewCharge(Wire):
    """Money paid in, in minor units."""

    amount: PositiveAmount


class Account(Wire):
    """A user's account; `balance` in minor units of `currency`."""

    user_id: str
    balance: int
    currency: Currency


class Entry(Wire):
    """A line of the ledger; `amount` is what it added to the account, so a debit's is negative.

    `number` counts an account's entries 1, 2, 3 … without gaps. `order_id` and `attempt`, the number of the
    payment, are there unless it is a charge.
    """

    entry_id: UUID
    user_id: str
    number: int
    kind: Literal["charge", "debit", "refund"]
    amount: int
    counter_account: Literal["funding", "sales"]
    order_id: UUID | None = None
    attempt: int | None = None
    balance_after: int
    currency: Currency
    created_at: Timestamp


class Entries(Wire):
    """A page of the ledger, newest first."""

    items: list[Entry]
    next_cursor: str | None


class BalanceApi:
    """The handlers and their dependencies."""

    def __init__(self, pool: Pool, currency: str, ownership: Ownership, client_timeout_seconds: float) -> None:
        self._pool = pool
        self._ownership = ownership
        self._currency = currency
        self._timeout = client_timeout_seconds

    def routes(self) -> list[Route]:
        """Return the routes."""
        missing = (AccountNotFound, Misdirected)
        return [
            Route(
                "POST",
                "/v1/accounts/{user_id}/charges",
                Scope.ACCOUNTS_CHARGE,
                self.charge,
                "Pay money in; the account is opened if there is none",
                {201: Entry},
                (*missing, BalanceTooLarge, IdempotencyKeyReused),
                NewCharge,
                headers=KEY_DESCRIPTION,
            ),
            Route("GET", "/v1/accounts/{user_id}", SIGNED_IN, self.get, "Get an account", {200: Account}, missing),
            Route(
                "GET",
                "/v1/accounts/{user_id}/entries",
                SIGNED_IN,
                self.list_entries,
                "List an account's entries, newest first",
                {200: Entries},
                missing,
                query=Page,
            ),
        ]

    async def charge(self, request: web.Request) -> web.Response:
        """POST /v1/accounts/{user_id}/charges."""
        user_id = _user_in_path(request)
        self._ownership.check_user(user_id)
        key = parse_key(request)
        new = await read_body(request, NewCharge, timeout_seconds=self._timeout)
        async with self._pool.transaction() as db:
            await _check_openable(db, user_id)
            row = await _charge(db, UserId(user_id), new.amount, key)
        return reply(self._view(row), 201)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/accounts/{user_id}."""
        user_id = _readable(request)
        self._ownership.check_user(user_id)
        async with self._pool.connection() as db:
            row = await _existing(db, user_id)
        return reply(self._view(row))

    async def list_entries(self, request: web.Request) -> web.Response:
        """GET /v1/accounts/{user_id}/entries."""
        user_id = _readable(request)
        self._ownership.check_user(user_id)
        page = read_query(request, Page)
        before = decode_cursor(page.cursor, int) or (INT64_MAX,)
        async with self._pool.connection() as db:
            await _existing(db, user_id)
            rows = await store.list_entries(db, user_id, before[0], page.limit + 1)
        items = rows[: page.limit]
        cursor = encode_cursor(items[-1]["number"]) if len(rows) > page.limit else None
        return reply({"items": [self._view(row) for row in items], "next_cursor": cursor})

    def _view(self, row: Row) -> dict[str, Any]:
        given = {name: value for name, value in row.items() if value is not None}
        return {**given, "currency": self._currency}


async def _charge(db: Connection, user_id: UserId, amount: int, key: str | None) -> Row:
    """Charge an account in the caller's transaction, or return the charge that has this key already."""
    await store.open_account(db, user_id)
    account = (await store.lock_accounts(db, [user_id]))[user_id]
    if key is not None:
        # Read under the account's lock: of two concurrent copies of a request, the second finds the first one's entry.
        earlier = await store.get_charge(db, user_id, key)
        if earlier is not None and earlier["amount"] != amount:
            raise IdempotencyKeyReused
        if earlier is not None:
            return earlier
    entry, after = charge(account, amount, key)
    rows = await store.write_entries(db, [entry])
    await store.write_accounts(db, [after])
    return rows[0]


async def _check_openable(db: Connection, user_id: str) -> None:
    """Raise ValidationFailed if a charge would open an account whose path proxies cannot forward."""
    try:
        check_addressable(user_id)
    except ValueError as error:
        if await store.get_account(db, user_id) is None:
            raise ValidationFailed([{"pointer": "/path/user_id", "message": str(error)}]) from None


async def _existing(db: Connection, user_id: str) -> Row:
    row = await store.get_account(db, user_id)
    if row is None:
        raise AccountNotFound
    return row


def _user_in_path(request: web.Request) -> str:
    """Return whose account the path names. `me` is the caller; in open mode, where nobody is known, it is an id."""
    named = path_id(request, "user_id", AccountNotFound)
    return (caller(request).subject or named) if named == "me" else named


def _readable(request: web.Request) -> str:
    """Return whose account is to be read. Raise AccountNotFound if the caller may not."""
    user_id = _user_in_path(request)
    if not caller(request).acts_for(user_id, Scope.ORDERS_READ):
        raise AccountNotFound
    return user_id
