"""How rules are taken out of the product: each function here makes a patch that replaces one decision of the product,
or one guard that only SQL holds, in the in-memory database."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import services.coupon.domain as coupon_domain
import services.product.domain as product_domain
from services.order import domain, saga, store
from services.order.domain import OrderStatus
from services.order.engine import runner, starts
from services.order.engine.runner import Runner
from services.order.saga import Kind, Saga, Status, Transition
from shared.participant import protocol
from shared.participant.executor import CommandExecutor
from shared.participant.protocol import Outcome
from tests.simulation.loop import current
from tests.simulation.memory.orders import LIVE, NOBODY, OrdersDatabase
from tests.simulation.memory.participants import CouponsDatabase, ParticipantDatabase, ProductsDatabase
from tests.simulation.memory.tables import Row

Patch = Callable[[], AbstractContextManager[Any]]


def replaced(place: Any, name: str, new: Any) -> Patch:
    return lambda: patch.object(place, name, new)


# The participants' protocol ---------------------------------------------------------------------------------------


def stores(kept: Callable[[Outcome], bool]) -> Patch:
    original = protocol.decide

    def decide(*arguments: Any) -> protocol.Verdict:
        verdict = original(*arguments)
        verdict.new_outcomes = {place: told for place, told in verdict.new_outcomes.items() if kept(told)}
        return verdict

    return replaced(protocol, "decide", decide)


def decide_one(*, fenced: Callable[[Any], bool], stored_first: bool = False) -> Patch:
    """The protocol's decision, with another order of its questions or a weaker fence."""
    original = protocol._decide_one

    def decide_one(command: Any, closed: Any, stored: Any, do: Any, undo: Any, verdict: protocol.Verdict) -> Outcome:
        known = stored.get(protocol.key(command)) or verdict.new_outcomes.get(protocol.key(command))
        if command.undo or (fenced(command) and not (stored_first and known)):
            return original(command, closed, stored, do, undo, verdict)
        return original(command, (), stored, do, undo, dataclasses.replace(verdict, newly_closed=set()))

    return replaced(protocol, "_decide_one", decide_one)


def refund_fences_known_attempts() -> Patch:
    original = protocol._decide_one

    def decide_one(command: Any, closed: Any, stored: Any, do: Any, undo: Any, verdict: protocol.Verdict) -> Outcome:
        if command.type == "debit" and protocol.key(command) not in stored:
            return original(command, (), stored, do, undo, verdict)
        return original(command, closed, stored, do, undo, verdict)

    return replaced(protocol, "_decide_one", decide_one)


def forgets_instead_of_closing(database: ParticipantDatabase, orders: Sequence[UUID]) -> None:
    for place in [place for place in database.outcomes.rows if place[0] in orders]:
        database.outcomes.delete(place)


def nothing_is_past() -> Patch:
    """Gates and outcomes are pruned, but a do that finds none of them is done."""
    original = protocol.decide

    def decide(*arguments: Any) -> protocol.Verdict:
        return original(*arguments[:5])

    return replaced(protocol, "decide", decide)


def forgets_holds() -> Patch:
    """Whatever an order held is pruned, given back or not."""

    def delete_restored(database: ProductsDatabase, orders: Sequence[UUID]) -> None:
        for hold in [hold for hold in database.holds if hold["order_id"] in orders]:
            database.holds.delete((hold["order_id"], hold["product_id"]))

    return replaced(ProductsDatabase, "delete_restored", delete_restored)


def release_of_any_coupon() -> Sequence[Patch]:
    """A release does not ask whose coupon it is."""

    def release(desk: Any, _command: Any) -> Mapping[str, Any]:
        freed = {"status": "AVAILABLE", "order_id": None, "discount_amount": None}
        desk.coupons = {id_: dataclasses.replace(coupon, **freed) for id_, coupon in desk.coupons.items()}
        return {}

    def lock_all(database: CouponsDatabase, *_: Any) -> list[Row]:
        return database.coupons.find(database.coupons.rows)

    return replaced(coupon_domain._Desk, "release", release), replaced(CouponsDatabase, "lock_coupons", lock_all)


def redeems_what_is_available() -> Patch:
    original = coupon_domain._Desk.use

    def use(desk: Any, command: Any) -> Mapping[str, Any]:
        coupon = desk.coupons.get(command.coupon_id)
        if getattr(command, "reserved", False) and coupon is not None and coupon.status == "AVAILABLE":
            command = dataclasses.replace(command, reserved=False)
        return original(desk, command)

    return replaced(coupon_domain._Desk, "use", use)


# The order service's guards ---------------------------------------------------------------------------------------


def guarded_on(*, saga_id: bool = True, owner: bool = True, status: bool = True) -> Patch:
    def apply_transitions(database: OrdersDatabase, *arguments: Any) -> list[Row]:
        *columns, process_id = arguments
        rows = []
        for move in zip(*columns, strict=True):
            live = next((row["saga_id"] for row in database.read_live_sagas([move[1]])), None)
            found = database.sagas.get(move[0] if saga_id else live)
            order = database.orders.get(move[1])
            if found is None or order is None or order["status"] != move[4]:
                continue
            if (owner and found["owner"] != process_id) or (status and found["status"] != move[2]):
                continue
            rows.append({**database._move(found["saga_id"], *move[1:]), "saga_id": move[0]})
        return rows

    return replaced(OrdersDatabase, "apply_transitions", apply_transitions)


def any_number_of_sagas() -> Sequence[Patch]:
    """A start asks neither for a live saga nor for a closing under way, and no unique index does."""

    def unaware(rule: Callable[..., Any]) -> Callable[..., Any]:
        return lambda order, _live, *now: rule(dataclasses.replace(order, closing=None), None, *now)

    def pay(database: OrdersDatabase, orders: Sequence[UUID]) -> list[Row]:
        return [
            database.orders.update(row["order_id"], status="PAYING", payment_attempt=row["payment_attempt"] + 1)
            for row in database.orders.find(orders)
        ]

    def close(database: OrdersDatabase, orders: Sequence[UUID], targets: Sequence[str]) -> list[Row]:
        return [database.orders.update(id_, closing=target) for id_, target in zip(orders, targets, strict=True)]

    rules = ("rule_on_payment", "rule_on_cancellation", "rule_on_expiry")
    return (
        *(replaced(domain, name, unaware(getattr(domain, name))) for name in rules),
        replaced(OrdersDatabase, "read_live_sagas", lambda *_: []),
        replaced(OrdersDatabase, "begin_payments", pay),
        replaced(OrdersDatabase, "begin_closings", close),
    )


def _forced(database: OrdersDatabase, saga_id: UUID, problem: Any, *, running: bool, pay_target: str) -> list[Row]:
    found = database.sagas.get(saga_id)
    if found is None or (running and found["status"] != "RUNNING"):
        return []
    target = pay_target if found["kind"] == "pay" else "REJECTED"
    changes = {"status": "COMPENSATING", "target": target, "problem": problem, "owner": NOBODY, "ended_at": None}
    return [database.sagas.update(saga_id, **changes)]


def force(*, running: bool = True, pay_target: str = "CANCELLED") -> Patch:
    def force(database: OrdersDatabase, saga_id: UUID, problem: Any) -> list[Row]:
        return _forced(database, saga_id, problem, running=running, pay_target=pay_target)

    return replaced(OrdersDatabase, "force_compensation", force)


def stuck_loses_direction(database: OrdersDatabase, saga_id: UUID, owner: UUID) -> None:
    found = database.sagas.get(saga_id)
    if found is not None and found["owner"] == owner and found["status"] in LIVE and found["kind"] != "close":
        database.sagas.update(saga_id, status="RUNNING", target=None)


def expects_no_event_of_pending() -> Patch:
    original = saga._compensated

    def compensated(of: Saga) -> Transition:
        move = original(of)
        return dataclasses.replace(move, event=None) if of.target is OrderStatus.PENDING_PAYMENT else move

    return replaced(saga, "_compensated", compensated)


# The runner's decisions -------------------------------------------------------------------------------------------


def unknown_is(outcome: Outcome, *, of_undos: bool) -> Patch:
    original = Runner._send

    async def send(self: Runner, of: Saga, commands: Sequence[saga.Command], journal: Any) -> Any:
        known, unknown = await original(self, of, commands, journal)
        undos = {step.undo for step in saga.UNDONE[Kind.CLOSE]}
        taken = [command for command in unknown if (command.type in undos) == of_undos]
        left = [command for command in unknown if command not in taken]
        return known + [(command, outcome) for command in taken], left

    return replaced(Runner, "_send", send)


def refused_payment_undoes() -> Patch:
    original = saga.next_move

    def next_move(of: Saga) -> saga.Move:
        move = original(of)
        pending = OrderStatus.PENDING_PAYMENT
        if isinstance(move, saga.Send) or of.status is Status.COMPENSATING or move.order_to is not pending:
            return move
        if of.kind is not Kind.PAY:
            return move
        return dataclasses.replace(move, saga_to=Status.COMPENSATING, order_to=OrderStatus.PAYING, target=pending)

    return replaced(runner, "next_move", next_move)


def no_row_for_closings() -> Patch:
    original = store.insert_sagas

    async def insert(db: Any, sagas: Sequence[Saga], *arguments: Any) -> None:
        await original(db, [one for one in sagas if one.kind is not Kind.CLOSE], *arguments)

    return replaced(store, "insert_sagas", insert)


# Mistakes of our own choosing -------------------------------------------------------------------------------------


def taken_over_as_if_undone() -> Patch:
    original = store.get_saga

    async def get_saga(*arguments: Any) -> tuple[Saga, UUID] | None:
        found = await original(*arguments)
        if found is None:
            return None
        return dataclasses.replace(found[0], undone=frozenset({saga.HOLD.undo})), found[1]

    return replaced(store, "get_saga", get_saga)


def clock_of_the_process() -> Patch:
    original = store.read_clock

    async def read_clock(db: Any) -> Any:
        return await original(db) + timedelta(seconds=current.get().clock_skew_seconds)

    return replaced(store, "read_clock", read_clock)


def key_apart_from_start() -> Sequence[Patch]:
    async def claim_keys(_db: Any, _starts: Any) -> dict[Any, Any]:
        return {}

    async def settle_keys(_db: Any, _results: Any) -> None: ...

    return replaced(starts, "claim_keys", claim_keys), replaced(starts, "settle_keys", settle_keys)


def holds_what_there_is() -> Patch:
    """Stock that is short is held as far as it goes."""
    original = product_domain._Desk.hold

    def hold(desk: Any, command: Any) -> Mapping[str, Any]:
        short = [line for line in command.lines if desk.units.get(line[0], 0) < line[1]]
        for product, quantity in command.lines:
            if short and desk.units.get(product, 0) >= quantity:
                desk.units[product] -= quantity
        return original(desk, command)

    return replaced(product_domain._Desk, "hold", hold)


def outcomes_in_another_order() -> Patch:
    """A batch's outcomes are told in the order of their orders' ids, not of the commands."""
    original = CommandExecutor.run

    async def run(desk: CommandExecutor[Any], commands: Sequence[Any]) -> list[Outcome | None]:
        outcomes = await original(desk, commands)
        return [outcomes[place] for place in sorted(range(len(commands)), key=lambda n: str(commands[n].gate))]

    return replaced(CommandExecutor, "run", run)


def without_undo_of(kind: Kind, command: str) -> Patch:
    """Compensation of one kind of saga leaves out one undo."""
    kept = tuple(step for step in saga.UNDONE[kind] if step.undo != command)
    return replaced(saga, "UNDONE", {**saga.UNDONE, kind: kept})


def redeems_without_reservation() -> Patch:
    """A payment redeems the coupon as a placement does, although it is reserved."""
    original = saga._do

    def do(step: saga.Step, of: Saga) -> saga.Command:
        command = original(step, of)
        return replace_fields(command, reserved=False) if step is saga.REDEEM else command

    return replaced(saga, "_do", do)


def replace_fields(command: saga.Command, **fields: Any) -> saga.Command:
    """Return the command with some fields set."""
    return dataclasses.replace(command, fields={**command.fields, **fields})
