"""The rules of the ledger: no money is created, lost or owed; every change is an entry; an undo is permanent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.balance.domain import (
    CHARGED_MAX,
    Account,
    BalanceTooLarge,
    Batch,
    Command,
    Debit,
    Entry,
    OrderId,
    Refund,
    UserId,
    charge,
)
from shared.participant.protocol import FENCED, Outcome, OutcomeKey, key
from tests.unit.protocol import ORDERS, Protocol, assert_repeats_are_answered_alike

ORDER, OTHER, THIRD = (OrderId(order) for order in ORDERS)
ANN, BOB, NOBODY = (UserId(user) for user in ("ann", "bob", "nobody"))


@dataclass
class World:
    """The tables in memory; `run` loads and writes like services/balance/batch.py."""

    accounts: dict[UserId, Account] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    protocol: Protocol = field(default_factory=Protocol)

    @classmethod
    def of(cls, **charges: int) -> "World":
        world = cls()
        for user, amount in charges.items():
            world.charge(UserId(user), amount)
        return world

    def charge(self, user: UserId, amount: int) -> None:
        entry, self.accounts[user] = charge(self.accounts.get(user, Account(user, 0, 0, 0)), amount, None)
        self.entries.append(entry)

    def paid(self, order: OrderId) -> dict[UserId, int]:
        paid: dict[UserId, int] = {}
        for entry in self.entries:
            if entry.order_id == order:
                paid[entry.user_id] = paid.get(entry.user_id, 0) - entry.amount
        return paid

    def run(self, *commands: Command) -> Sequence[Outcome]:
        undone = {c.gate for c in commands if isinstance(c, Refund)} - self.protocol.closed
        paid = {OrderId(order): self.paid(OrderId(order)) for order in undone}
        batch = Batch(self.accounts, paid)
        outcomes = self.protocol.run(commands, batch)
        self.entries += batch.entries
        for account in batch.changed:
            assert self.accounts[account.user_id] != account, "only what changed is written"
            self.accounts[account.user_id] = account
        return outcomes

    def check(self) -> None:
        """Check the invariants of every ledger."""
        for user, account in self.accounts.items():
            entries = [entry for entry in self.entries if entry.user_id == user]
            assert [entry.number for entry in entries] == list(range(1, account.entry_count + 1))
            balance = 0
            for entry in entries:
                balance += entry.amount
                assert entry.balance_after == balance >= 0
            assert account.balance == balance <= account.charged
            assert account.charged == sum(entry.amount for entry in entries if entry.kind == "charge")
        for order in (ORDER, OTHER, THIRD):
            assert all(amount >= 0 for amount in self.paid(order).values())
            assert order not in self.protocol.closed or not any(self.paid(order).values())


orders = st.sampled_from([ORDER, OTHER, THIRD])
commands = st.one_of(
    st.builds(
        Debit,
        gate=orders,
        attempt=st.integers(1, 3),
        user_id=st.sampled_from([ANN, ANN, BOB, NOBODY]),
        amount=st.integers(0, 6),
    ),
    st.builds(Refund, gate=orders),
)
worlds = st.builds(World.of, ann=st.integers(1, 10), bob=st.integers(1, 10))
batches = st.lists(st.lists(commands, min_size=1, max_size=6), max_size=4)


@given(worlds, batches)
def test_every_balance_is_the_sum_of_its_gapless_entries_and_never_negative(
    world: World, batches: list[list[Command]]
) -> None:
    for batch in batches:
        world.run(*batch)
        world.check()


@given(worlds, batches)
def test_money_moves_between_accounts_and_sales_and_nowhere_else(world: World, batches: list[list[Command]]) -> None:
    charged = sum(account.charged for account in world.accounts.values())
    for batch in batches:
        world.run(*batch)
    sales = sum(amount for order in (ORDER, OTHER, THIRD) for amount in world.paid(order).values())
    assert sum(account.balance for account in world.accounts.values()) + sales == charged


@given(worlds, batches)
def test_paid_amount_is_the_sum_of_applied_debits_until_the_refund(world: World, batches: list[list[Command]]) -> None:
    asked = [command for batch in batches for command in batch if isinstance(command, Debit)]
    # Of two debits with the same attempt, the first counts.
    debits: dict[OutcomeKey, Debit] = {key(debit): debit for debit in reversed(asked)}
    for batch in batches:
        world.run(*batch)
    applied = [place for place, outcome in world.protocol.stored.items() if place[1] == "debit" and outcome.applied]
    for order in (ORDER, OTHER, THIRD):
        took = sum(debits[place].amount for place in applied if place[0] == order)
        assert sum(world.paid(order).values()) == (0 if order in world.protocol.closed else took)


@given(worlds, batches)
def test_batching_changes_no_outcome(world: World, batches: list[list[Command]]) -> None:
    alone = World(dict(world.accounts), list(world.entries))
    for batch in batches:
        assert list(world.run(*batch)) == [alone.run(command)[0] for command in batch]
    assert (world.accounts, world.entries) == (alone.accounts, alone.entries)


@given(worlds, st.lists(commands, min_size=1, max_size=8))
def test_repeated_batch_gets_the_same_answers_and_changes_nothing(world: World, batch: list[Command]) -> None:
    outcomes = world.run(*batch)
    entries = list(world.entries)
    repeated = world.run(*batch)
    assert_repeats_are_answered_alike(batch, outcomes, repeated, world.protocol.closed)
    assert world.entries == entries


def test_a_debit_is_an_entry_that_names_its_order_and_payment() -> None:
    world = World.of(ann=10)
    assert world.run(Debit(ORDER, 2, ANN, 4)) == [Outcome(True, {"balance": 6})]
    assert world.entries[-1] == Entry(ANN, 2, "debit", -4, 6, ORDER, 2)


def test_debit_above_the_balance_is_refused_with_the_missing_amount() -> None:
    world = World.of(ann=10)
    (outcome,) = world.run(Debit(ORDER, 1, ANN, 11))
    assert (outcome.body["type"], outcome.body["status"]) == ("/problems/insufficient-balance", 400)
    assert (outcome.body["required"], outcome.body["available"]) == (11, 10)
    assert len(world.entries) == 1


def test_a_user_without_an_account_has_a_balance_of_0() -> None:
    refused, nothing = World().run(Debit(ORDER, 1, NOBODY, 1), Debit(OTHER, 1, NOBODY, 0))
    assert (refused.body["required"], refused.body["available"]) == (1, 0)
    assert nothing == Outcome(True, {"balance": 0})


def test_a_debit_of_0_is_applied_without_an_entry() -> None:
    world = World.of(ann=10)
    assert world.run(Debit(ORDER, 1, ANN, 0)) == [Outcome(True, {"balance": 10})]
    assert len(world.entries) == 1


def test_a_refused_payment_does_not_forbid_the_next_after_a_charge() -> None:
    world = World.of(ann=1)
    refused = world.run(Debit(ORDER, 1, ANN, 5))
    world.charge(ANN, 9)
    assert world.run(Debit(ORDER, 1, ANN, 5)) == refused
    assert world.run(Debit(ORDER, 2, ANN, 5)) == [Outcome(True, {"balance": 5})]


def test_a_refund_gives_back_all_attempts_in_one_entry_to_the_account_that_paid() -> None:
    world = World.of(ann=10, bob=10)
    world.run(Debit(ORDER, 1, ANN, 3), Debit(ORDER, 2, ANN, 4), Debit(OTHER, 1, BOB, 5))
    assert world.run(Refund(ORDER))[0].applied
    assert world.entries[-1] == Entry(ANN, 4, "refund", 7, 10, ORDER, 0)
    assert world.accounts[BOB].balance == 5


def test_refunded_money_can_be_spent_by_a_later_command_of_the_batch() -> None:
    world = World.of(ann=10)
    world.run(Debit(ORDER, 1, ANN, 10))
    refunded, debited = world.run(Refund(ORDER), Debit(OTHER, 1, ANN, 10))
    assert refunded.applied
    assert debited.applied
    world.check()


def test_a_debit_and_its_refund_in_one_batch_are_both_entries() -> None:
    world = World.of(ann=10)
    world.run(Debit(ORDER, 1, ANN, 10), Refund(ORDER))
    assert [entry.amount for entry in world.entries] == [10, -10, 10]


def test_refund_of_0_makes_no_entry() -> None:
    world = World.of(ann=100)
    batch = Batch(world.accounts, {ORDER: {ANN: 0}})
    world.protocol.run([Refund(ORDER)], batch)
    assert batch.entries == []


def test_a_refund_closes_every_attempt_even_those_never_seen() -> None:
    world = World.of(ann=10)
    world.run(Refund(ORDER))
    assert world.run(*(Debit(ORDER, attempt, ANN, 1) for attempt in (1, 2, 3))) == [FENCED] * 3


def test_charges_of_a_lifetime_stay_within_a_bigint_so_that_no_refund_overflows() -> None:
    spent = Account(ANN, 0, CHARGED_MAX - 5, 2)
    entry, account = charge(spent, 5, "key")
    assert (entry.amount, entry.balance_after, entry.idempotency_key) == (5, 5, "key")
    assert account == Account(ANN, 5, CHARGED_MAX, 3)
    with pytest.raises(BalanceTooLarge):
        charge(account, 1, None)
