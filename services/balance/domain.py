"""The rules of accounts and their ledger: pure functions of the loaded rows, and the refusals they raise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NewType
from uuid import UUID

from shared.contracts.refusals import InsufficientBalance
from shared.participant.protocol import Do, Undo
from shared.refusals import Refusal

UserId = NewType("UserId", str)
OrderId = NewType("OrderId", UUID)

CHARGED_MAX = 2**63 - 1  # the largest bigint

Kind = Literal["charge", "debit", "refund"]
# The other side of an entry: charges are funded from outside, payments of orders are sales.
COUNTER_ACCOUNTS: Mapping[Kind, str] = {"charge": "funding", "debit": "sales", "refund": "sales"}


class AccountNotFound(Refusal):
    """This user has no account."""

    slug = "account-not-found"
    status = 404


class BalanceTooLarge(Refusal):
    """An account can't be charged more than 2^63-1 in its lifetime."""

    slug = "balance-too-large"


@dataclass(frozen=True, slots=True)
class Account:
    """An account; `charged` is the sum of all its charges. Amounts are in minor units."""

    user_id: UserId
    balance: int
    charged: int
    entry_count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger; `amount` is added to the balance, so a debit's is negative."""

    user_id: UserId
    number: int
    kind: Kind
    amount: int
    balance_after: int
    order_id: OrderId | None = None
    attempt: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Debit(Do):
    """Take money from an account for an order; `attempt` is the number of the payment."""

    type: ClassVar[str] = "debit"
    attempt: int
    user_id: UserId
    amount: int


@dataclass(frozen=True, slots=True)
class Refund(Undo):
    """Give back all that an order paid, in any attempt."""

    type: ClassVar[str] = "refund"


# A gate is an order's id.
Command = Debit | Refund


class Batch:
    """The working copy of one batch.

    `accounts`: every existing account that the batch names or that paid for its orders. `paid`: what its orders paid so
    far, net of refunds, by account. After the commands, `entries` are new.
    """

    def __init__(self, accounts: Mapping[UserId, Account], paid: Mapping[OrderId, Mapping[UserId, int]]) -> None:
        self._before = accounts
        self._accounts = dict(accounts)
        self._paid = {order: dict(amounts) for order, amounts in paid.items()}
        self.entries: list[Entry] = []

    @property
    def changed(self) -> list[Account]:
        """Return the changed accounts in their new state."""
        return [account for account in self._accounts.values() if account != self._before[account.user_id]]

    def do(self, command: Command) -> Mapping[str, Any]:
        """Debit an account. Raises InsufficientBalance."""
        assert isinstance(command, Debit)
        account = self._accounts.get(command.user_id)
        available = account.balance if account else 0
        if command.amount > available:
            raise InsufficientBalance(command.amount, available)
        if account is None or command.amount == 0:
            return {"balance": available}
        entry = self._enter(account, "debit", -command.amount, command)
        paid = self._paid.setdefault(OrderId(command.gate), {})
        paid[command.user_id] = paid.get(command.user_id, 0) + command.amount
        return {"balance": entry.balance_after}

    def undo(self, command: Command) -> Mapping[str, Any]:
        """Give back all that an order paid."""
        for user_id, amount in sorted(self._paid.pop(OrderId(command.gate), {}).items()):
            if amount > 0:
                self._enter(self._accounts[user_id], "refund", amount, command)
        return {}

    def _enter(self, account: Account, kind: Kind, amount: int, command: Command) -> Entry:
        entry, self._accounts[account.user_id] = _entered(account, kind, amount, OrderId(command.gate), command.attempt)
        self.entries.append(entry)
        return entry


def charge(account: Account, amount: int, idempotency_key: str | None) -> tuple[Entry, Account]:
    """Return a charge's entry, and the account after it. Raises BalanceTooLarge.

    The bound on the account's lifetime charges also keeps every later refund within a bigint. The sum of charges
    only grows, so a refused charge is refused at every repeat: its key needs no stored answer.
    """
    if account.charged + amount > CHARGED_MAX:
        raise BalanceTooLarge
    entry, after = _entered(account, "charge", amount, idempotency_key=idempotency_key)
    return entry, replace(after, charged=account.charged + amount)


def _entered(
    account: Account,
    kind: Kind,
    amount: int,
    order_id: OrderId | None = None,
    attempt: int | None = None,
    idempotency_key: str | None = None,
) -> tuple[Entry, Account]:
    number, balance_after = account.entry_count + 1, account.balance + amount
    entry = Entry(account.user_id, number, kind, amount, balance_after, order_id, attempt, idempotency_key)
    return entry, replace(account, balance=balance_after, entry_count=number)
