"""The rules of accounts and their ledger: pure functions of what was loaded, and the refusals they give."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NewType
from uuid import UUID

from shared.contracts.refusals import InsufficientBalance
from shared.participant import protocol
from shared.participant.protocol import Outcome, OutcomeKey, Verdict
from shared.refusals import Refusal

UserId = NewType("UserId", str)
OrderId = NewType("OrderId", UUID)

CHARGED_MAX = 2**63 - 1  # what a bigint holds

Kind = Literal["charge", "debit", "refund"]
# Where the money comes from or goes to: what is paid in is funded from outside, what orders pay are sales.
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
    """An account as it is; `charged` is the sum of all its charges, both in minor units."""

    user_id: UserId
    balance: int
    charged: int
    entry_count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger; `amount` is what it adds to the account, so a debit's is negative."""

    user_id: UserId
    number: int
    kind: Kind
    amount: int
    balance_after: int
    order_id: OrderId | None = None
    attempt: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Debit:
    """Take money from an account for an order; `attempt` is the number of the payment."""

    type: ClassVar[str] = "debit"
    undo: ClassVar[bool] = False
    order_id: OrderId
    attempt: int
    user_id: UserId
    amount: int

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this passes."""
        return self.order_id


@dataclass(frozen=True, slots=True)
class Refund:
    """Give back whatever an order paid, whichever attempt it was."""

    type: ClassVar[str] = "refund"
    undo: ClassVar[bool] = True
    order_id: OrderId
    attempt: int = 0

    @property
    def gate(self) -> UUID:
        """Return the order, whose gate this closes."""
        return self.order_id


Command = Debit | Refund


@dataclass(slots=True)
class Decision:
    """What a batch comes to: the protocol's verdict, the new entries and the accounts as they leave them."""

    verdict: Verdict
    entries: list[Entry] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def decide(
    commands: Sequence[Command],
    closed: Collection[UUID],
    stored: Mapping[OutcomeKey, Outcome],
    accounts: Mapping[UserId, Account],
    paid: Mapping[OrderId, Mapping[UserId, int]],
    past: Collection[UUID] = (),
) -> Decision:
    """Decide a batch in arrival order.

    `closed`, `stored`, `past`: the protocol's, of the batch's orders. `accounts`: every one that exists of those
    the batch names or that paid for its orders. `paid`: what its orders paid so far, net of refunds, by account.
    """
    desk = _Desk(accounts, paid)
    verdict = protocol.decide(commands, closed, stored, desk.debit, desk.refund, past)
    changed = [account for account in desk.accounts.values() if account != accounts[account.user_id]]
    return Decision(verdict, desk.entries, changed)


class _Desk:
    """The working copy of one batch."""

    def __init__(self, accounts: Mapping[UserId, Account], paid: Mapping[OrderId, Mapping[UserId, int]]) -> None:
        self.accounts = dict(accounts)
        self.entries: list[Entry] = []
        self._paid = {order: dict(amounts) for order, amounts in paid.items()}

    def debit(self, command: Command) -> Mapping[str, Any]:
        assert isinstance(command, Debit)
        account = self.accounts.get(command.user_id)
        available = account.balance if account else 0
        if command.amount > available:
            raise InsufficientBalance(command.amount, available)
        if account is None or command.amount == 0:
            return {"balance": available}
        entry = self._enter(account, "debit", -command.amount, command)
        paid = self._paid.setdefault(command.order_id, {})
        paid[command.user_id] = paid.get(command.user_id, 0) + command.amount
        return {"balance": entry.balance_after}

    def refund(self, command: Command) -> Mapping[str, Any]:
        for user_id, amount in sorted(self._paid.pop(command.order_id, {}).items()):
            if amount > 0:
                self._enter(self.accounts[user_id], "refund", amount, command)
        return {}

    def _enter(self, account: Account, kind: Kind, amount: int, command: Command) -> Entry:
        entry = _next(account, kind, amount, command.order_id, command.attempt)
        self.accounts[account.user_id] = _after(account, entry)
        self.entries.append(entry)
        return entry


def charge(account: Account, amount: int, idempotency_key: str | None) -> tuple[Entry, Account]:
    """Return the entry of a charge, and the account after it. Raises BalanceTooLarge.

    Bounding the lifetime's charges keeps every later refund within a bigint as well. They only grow, so a charge
    that was refused once is refused at every repeat: its key needs no stored answer.
    """
    if account.charged + amount > CHARGED_MAX:
        raise BalanceTooLarge
    entry = _next(account, "charge", amount, idempotency_key=idempotency_key)
    return entry, replace(_after(account, entry), charged=account.charged + amount)


def _next(
    account: Account,
    kind: Kind,
    amount: int,
    order_id: OrderId | None = None,
    attempt: int | None = None,
    idempotency_key: str | None = None,
) -> Entry:
    number, balance_after = account.entry_count + 1, account.balance + amount
    return Entry(account.user_id, number, kind, amount, balance_after, order_id, attempt, idempotency_key)


def _after(account: Account, entry: Entry) -> Account:
    return replace(account, balance=entry.balance_after, entry_count=entry.number)
