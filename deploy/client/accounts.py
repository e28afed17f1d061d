"""Accounts: charge and read them."""

from collections.abc import AsyncIterator

from .lists import LISTED, every
from .models import Account, Entries, Entry, NewCharge
from .transport import Call, Request, Service, Transport, new_key

ONE = "/v1/accounts/{user_id}"
CHARGE = Call(Service.BALANCE, "POST", f"{ONE}/charges", {201: Entry}, NewCharge, keyed=True)
GET = Call(Service.BALANCE, "GET", ONE, {200: Account})
ENTRIES = Call(Service.BALANCE, "GET", f"{ONE}/entries", {200: Entries}, query=LISTED)
CALLS = (CHARGE, GET, ENTRIES)


class AccountCalls:
    """The calls of the balance service. With a token, the user `me` is the caller."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def charge(
        self, user_id: str, amount: int, *, key: str | None = None, deadline_seconds: float | None = None
    ) -> Entry:
        """Pay an amount into an account; the first charge opens it. With an earlier call's `key`, nothing is added."""
        request = Request(CHARGE, {"user_id": user_id}, body=NewCharge(amount=amount), key=key or new_key())
        entry: Entry = await self._transport.model(request, self._transport.deadline(deadline_seconds))
        return entry

    async def get(self, user_id: str, *, deadline_seconds: float | None = None) -> Account:
        """Return an account."""
        deadline = self._transport.deadline(deadline_seconds)
        account: Account = await self._transport.model(Request(GET, {"user_id": user_id}), deadline)
        return account

    def entries(self, user_id: str, *, page_size: int = 100) -> AsyncIterator[Entry]:
        """Yield the entries of an account, newest first. Each page has a deadline of its own."""
        return every(self._transport, ENTRIES, {}, page_size, {"user_id": user_id})
