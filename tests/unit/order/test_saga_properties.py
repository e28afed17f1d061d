"""With any loss of messages and runners, a saga ends, and every participant agrees with its end."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.order.domain import (
    Begin,
    Live,
    Order,
    OrderStatus,
    SagaId,
    rule_on_cancellation,
    rule_on_expiry,
    rule_on_payment,
)
from services.order.saga import (
    VERSION,
    Command,
    Kind,
    Participant,
    Saga,
    Send,
    Status,
    Transition,
    committed,
    learn,
    next_move,
)
from shared.participant import protocol
from shared.participant.protocol import Outcome, OutcomeKey
from shared.refusals import Refusal
from tests.unit.order.samples import LATER, an_order, held

S = OrderStatus
UNDOS = {"restore_stock", "release_coupon", "refund"}
EFFECTS: dict[str, dict[OrderStatus, set[str]]] = {
    Participant.PRODUCT: {S.PAID: {"hold_stock"}, S.PENDING_PAYMENT: {"hold_stock"}},
    Participant.COUPON: {S.PAID: {"redeem_coupon"}, S.PENDING_PAYMENT: {"reserve_coupon"}},
    Participant.BALANCE: {S.PAID: {"debit"}, S.PENDING_PAYMENT: set[str]()},
}
FAULTS_MAX = 60  # after these nothing fails, so that the test finds a saga that never ends


@dataclass(frozen=True, slots=True)
class Wire:
    """A command with the fields that the protocol's rules need; a do or an undo."""

    type: ClassVar[str] = ""
    undo: ClassVar[bool] = False
    command: Command

    @property
    def gate(self) -> UUID:
        return UUID(self.command.order_id)

    @property
    def attempt(self) -> int:
        return self.command.attempt


@dataclass(slots=True)
class FakeParticipant:
    """A participant: the product's own gates and stored outcomes, with effects that are only names."""

    refuses: bool
    effects: set[str] = field(default_factory=set)
    closed: set[UUID] = field(default_factory=set)
    stored: dict[OutcomeKey, Outcome] = field(default_factory=dict)

    def take(self, command: Command) -> Outcome:
        kind = type("Sent", (Wire,), {"type": command.type, "undo": command.type in UNDOS})
        verdict = protocol.decide([kind(command)], self.closed, self.stored, self._do, self._undo)
        self.stored |= verdict.new_outcomes
        self.closed |= verdict.newly_closed
        return verdict.outcomes[0]

    def _do(self, wire: Wire) -> Mapping[str, Any]:
        if self.refuses:
            raise Refusal
        if wire.type == "redeem_coupon":
            self.effects.discard("reserve_coupon")
        self.effects.add(wire.type)
        return {"lines": held(), "discount_amount": 100, "balance": 0}

    def _undo(self, _: Wire) -> Mapping[str, Any]:
        self.effects.clear()
        return {}


@dataclass(slots=True)
class Runner:
    """A process with a saga in memory; another process may have replaced it without its knowledge."""

    saga: Saga


@dataclass(slots=True)
class World:
    """One order, its participants, and a stored saga with its owner."""

    order: Order
    participants: dict[str, FakeParticipant]
    stored: Saga | None = None
    owner: Runner | None = None
    sent: list[Command] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    sagas: int = 0

    def begin(self, kind: Kind, target: OrderStatus | None = None) -> Runner:
        self.sagas += 1
        if kind is Kind.PAY:
            self.order = replace(self.order, status=S.PAYING, payment_attempt=self.order.payment_attempt + 1)
        if target is not None:
            self.order = replace(self.order, closing=target)
        status = Status.RUNNING if target is None else Status.COMPENSATING
        saga_id = SagaId(UUID(int=self.sagas))
        self.stored = Saga(saga_id, kind, VERSION, status, self.order, self.order.payment_attempt, target)
        self.owner = Runner(self.stored)
        return self.owner

    def ask(self, kind: Kind, *, expiring: bool = False) -> None:
        """Start an operation if the order's rules allow it, like its first commit."""
        live = Live(self.stored.saga_id, self.stored.kind) if self.stored and self.stored.status.live else None
        try:
            if kind is Kind.PAY:
                ruling = rule_on_payment(self.order, live, LATER if expiring else self.order.created_at)
            elif expiring:
                ruling = rule_on_expiry(self.order, live, LATER)
            else:
                ruling = rule_on_cancellation(self.order, live)
        except Refusal:
            return
        if isinstance(ruling, Begin):
            self.begin(kind, ruling.target)

    def take_over(self) -> Runner:
        """Take the stored saga over, and return its new runner."""
        assert self.stored is not None
        self.owner = Runner(self._read())
        return self.owner

    def force(self) -> None:
        """Force a running saga to compensate, as an operator may do."""
        if self.stored is not None and self.stored.status is Status.RUNNING:
            target = S.CANCELLED if self.stored.kind is Kind.PAY else S.REJECTED
            self.stored = replace(self.stored, status=Status.COMPENSATING, target=target)

    def commit(self, runner: Runner, move: Transition) -> bool:
        """Commit if the guards hold: the saga's id, owner and status, and the order's status."""
        assert self.stored is not None
        guards = (self.stored.saga_id, self.stored.status, self.order.status)
        if runner is not self.owner or guards != (runner.saga.saga_id, move.saga_from, move.order_from):
            return False
        ended = move.saga_to is Status.COMPENSATED
        closing = None if ended else self.order.closing
        self.order = replace(runner.saga.order, status=move.order_to, closing=closing)
        self.stored = replace(self.stored, status=move.saga_to, target=move.target, problem=move.problem)
        if move.event:
            self.events.append(move.event)
        return True

    def _read(self) -> Saga:
        assert self.stored is not None
        fresh = replace(self.stored, order=self.order)
        return replace(fresh, applied=frozenset(), undone=frozenset(), refused=None)

    def step(self, runner: Runner, faults: Iterator[int]) -> None:
        """Let a runner do one step; requests or answers may be lost."""
        move = next_move(runner.saga)
        if isinstance(move, Send):
            for command in move.commands:
                self.sent.append(command)
                lost = next(faults)
                if lost == 1:
                    continue
                outcome = self.participants[command.participant].take(command)
                if lost != 2:
                    runner.saga = learn(runner.saga, command, outcome)
        elif self.commit(runner, move):
            if next(faults) != 2:  # otherwise the result of its commit is lost
                runner.saga = committed(runner.saga, move, self.order)
            else:
                runner.saga = self._read()
        elif runner is self.owner:
            runner.saga = self._read()


def play(world: World, script: list[int], plan: list[int]) -> None:
    """Run everything to its end with the script's faults; `plan` has the clients' requests."""
    faults = iter([*script, *[0] * 10_000])
    zombies: list[Runner] = []
    wishes = iter(plan)
    for _ in range(FAULTS_MAX * 10):
        assert world.stored is not None
        assert world.owner is not None
        if not world.stored.status.live:
            wish = next(wishes, None)
            if wish is None:
                return
            world.ask(Kind.PAY if wish == 0 else Kind.CLOSE, expiring=wish == 2)
            continue
        chance = next(faults)
        if chance == 3:
            zombies.append(world.owner)
            world.take_over()
        elif chance == 4 and zombies and zombies[-1].saga.status.live:
            world.step(zombies[-1], faults)
        elif chance == 5:
            world.force()
        elif chance == 6 and world.sent:
            late = world.sent[next(faults) % len(world.sent)]
            world.participants[late.participant].take(late)
        elif chance == 7:
            world.ask(Kind.PAY)
            world.ask(Kind.CLOSE)
        else:
            world.step(world.owner, faults)
    raise AssertionError("the saga does not end")


SCRIPTS = st.lists(st.integers(0, 9), max_size=FAULTS_MAX)
REFUSERS = st.sets(st.sampled_from(Participant))
PLANS = st.lists(st.integers(0, 2), max_size=4)


def started(kind: Kind, refusers: Collection[Participant] = ()) -> World:
    """Return an order with a new saga of this kind, and its holds at the participants at that time."""
    now = kind is Kind.PLACE_NOW
    placing = kind in (Kind.PLACE_NOW, Kind.PLACE_LATER)
    order = an_order(
        S.PLACING if placing else S.PENDING_PAYMENT,
        coupon_id="WELCOME",
        expires_at=None if now else LATER,
        payment_attempt=int(now),
    )
    world = World(order, {who: FakeParticipant(refuses=who in refusers) for who in Participant})
    if not placing:
        world.participants[Participant.PRODUCT].effects.add("hold_stock")
        world.participants[Participant.COUPON].effects.add("reserve_coupon")
    world.begin(kind, S.CANCELLED if kind is Kind.CLOSE else None)
    return world


@settings(max_examples=600)
@given(st.sampled_from(Kind), SCRIPTS, REFUSERS, PLANS)
def test_every_saga_ends_and_holds_match_its_order(
    kind: Kind, script: list[int], refusers: set[Participant], plan: list[int]
) -> None:
    world = started(kind, refusers)
    play(world, script, plan)
    for who, participant in world.participants.items():
        assert participant.effects == EFFECTS[who].get(world.order.status, set()), (
            who,
            world.order.status,
        )
    assert world.order.status not in (S.PLACING, S.PAYING)
    assert world.order.closing is None


@settings(max_examples=200)
@given(SCRIPTS, PLANS)
def test_every_end_writes_one_event(script: list[int], plan: list[int]) -> None:
    world = started(Kind.PLACE_LATER)
    play(world, script, plan)
    ends = {S.PENDING_PAYMENT: "placed", S.PAID: "paid", S.EXPIRED: "expired", S.CANCELLED: "cancelled"}
    last = {**ends, S.REFUNDED: "refunded"}.get(world.order.status)
    assert world.events[-1:] == ([f"order.{last}.v1"] if last else [])
    assert len(world.events) == len(set(world.events))


@settings(max_examples=200)
@given(SCRIPTS)
def test_refused_payment_can_be_retried_until_forced_or_cancelled(script: list[int]) -> None:
    world = started(Kind.PAY, {Participant.BALANCE})
    play(world, [chance for chance in script if chance not in (5, 7)], [])
    refused = world.order.status
    assert refused is S.PENDING_PAYMENT
    assert not [command for command in world.sent if command.type in UNDOS]
    world.participants[Participant.BALANCE].refuses = False
    play(world, [], [0])
    assert world.order.status is S.PAID
