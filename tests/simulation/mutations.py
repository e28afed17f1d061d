"""Makes the patches that remove rules: each replaces one decision of the product, or one guard that SQL makes.

Guards of SQL are replaced in the databases in memory."""

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
from services.order.domain import Order, OrderStatus
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


def replace(place: Any, name: str, new: Any) -> Patch:
    return lambda: patch.object(place, name, new)


# The participants' protocol ---------------------------------------------------------------------------------------


def store_only(kept: Callable[[Outcome], bool]) -> Patch:
    original = protocol.decide

    def decide(*arguments: Any) -> protocol.Verdict:
        verdict = original(*arguments)
        verdict.new_outcomes = {place: new for place, new in verdict.new_outcomes.items() if kept(new)}
        return verdict

    return replace(protocol, "decide", decide)


def decide_one(*, fenced: Callable[[Any], bool], stored_first: bool = False) -> Patch:
    """Decide with a weaker fence: only for commands that are `fenced`, and not if an outcome is `stored_first`."""
    original = protocol._decide_one

    def decide_one(command: Any, closed: Any, stored: Any, do: Any, undo: Any, verdict: protocol.Verdict) -> Outcome:
        known = stored.get(protocol.key(command)) or verdict.new_outcomes.get(protocol.key(command))
        if command.undo or (fenced(command) and not (stored_first and known)):
            return original(command, closed, stored, do, undo, verdict)
        return original(command, (), stored, do, undo, dataclasses.replace(verdict, newly_closed=set()))

    return replace(protocol, "_decide_one", decide_one)


def fence_known_attempts_only() -> Patch:
    original = protocol._decide_one

    def decide_one(command: Any, closed: Any, stored: Any, do: Any, undo: Any, verdict: protocol.Verdict) -> Outcome:
        if command.type == "debit" and protocol.key(command) not in stored:
            return original(command, (), stored, do, undo, verdict)
        return original(command, closed, stored, do, undo, verdict)

    return replace(protocol, "_decide_one", decide_one)


def delete_outcomes_instead_of_closing(database: ParticipantDatabase, orders: Sequence[UUID]) -> None:
    for place in [place for place in database.outcomes.rows if place[0] in orders]:
        database.outcomes.delete(place)


def accept_past_orders() -> Patch:
    """Execute a do of a pruned order, which has no gate and no outcome any more."""
    original = protocol.decide

    def decide(*arguments: Any) -> protocol.Verdict:
        return original(*arguments[:5])

    return replace(protocol, "decide", decide)


def prune_all_holds() -> Patch:
    """Prune the holds of an order even if they are not restored."""

    def delete_restored(database: ProductsDatabase, orders: Sequence[UUID]) -> None:
        for hold in [hold for hold in database.holds if hold["order_id"] in orders]:
            database.holds.delete((hold["order_id"], hold["product_id"]))

    return replace(ProductsDatabase, "delete_restored", delete_restored)


def release_any_coupon() -> Sequence[Patch]:
    """Release every coupon, not only the order's own."""

    def release(batch: Any, _command: Any) -> Mapping[str, Any]:
        freed = {"status": "AVAILABLE", "order_id": None, "discount_amount": None}
        batch._coupons = {id_: dataclasses.replace(coupon, **freed) for id_, coupon in batch._coupons.items()}
        return {}

    def lock_all(database: CouponsDatabase, *_: Any) -> list[Row]:
        return database.coupons.find(database.coupons.rows)

    return replace(coupon_domain.Batch, "undo", release), replace(CouponsDatabase, "lock_coupons", lock_all)


def redeem_available_coupons() -> Patch:
    original = coupon_domain.Batch.do

    def use(batch: Any, command: Any) -> Mapping[str, Any]:
        coupon = batch._coupons.get(command.coupon_id)
        if getattr(command, "reserved", False) and coupon is not None and coupon.status == "AVAILABLE":
            command = dataclasses.replace(command, reserved=False)
        return original(batch, command)

    return replace(coupon_domain.Batch, "do", use)


# The order service's guards ---------------------------------------------------------------------------------------


def guard_on(*, saga_id: bool = True, owner: bool = True, status: bool = True) -> Patch:
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

    return replace(OrdersDatabase, "apply_transitions", apply_transitions)


def allow_several_sagas() -> Sequence[Patch]:
    """Start a saga despite a live saga or a closing of the order, and without the unique index."""

    def without_live_saga(rule: Callable[..., Any]) -> Callable[..., Any]:
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
        *(replace(domain, name, without_live_saga(getattr(domain, name))) for name in rules),
        replace(OrdersDatabase, "read_live_sagas", lambda *_: []),
        replace(OrdersDatabase, "begin_payments", pay),
        replace(OrdersDatabase, "begin_closings", close),
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

    return replace(OrdersDatabase, "force_compensation", force)


def set_stuck_to_running(database: OrdersDatabase, saga_id: UUID, owner: UUID) -> None:
    found = database.sagas.get(saga_id)
    if found is not None and found["owner"] == owner and found["status"] in LIVE and found["kind"] != "close":
        database.sagas.update(saga_id, status="RUNNING", target=None)


def omit_event_of_pending() -> Patch:
    original = saga._compensated

    def compensated(of: Saga) -> Transition:
        move = original(of)
        return dataclasses.replace(move, event=None) if of.target is OrderStatus.PENDING_PAYMENT else move

    return replace(saga, "_compensated", compensated)


# The runner's decisions -------------------------------------------------------------------------------------------


def take_unknown_as(outcome: Outcome, *, of_undos: bool) -> Patch:
    original = Runner._send

    async def send(self: Runner, of: Saga, commands: Sequence[saga.Command], journal: Any) -> Any:
        known, unknown = await original(self, of, commands, journal)
        undos = {step.undo for step in saga.UNDONE[Kind.CLOSE]}
        taken = [command for command in unknown if (command.type in undos) == of_undos]
        left = [command for command in unknown if command not in taken]
        return known + [(command, outcome) for command in taken], left

    return replace(Runner, "_send", send)


def undo_refused_payment() -> Patch:
    original = saga.next_move

    def next_move(of: Saga) -> saga.Move:
        move = original(of)
        pending = OrderStatus.PENDING_PAYMENT
        if isinstance(move, saga.Send) or of.status is Status.COMPENSATING or move.order_to is not pending:
            return move
        if of.kind is not Kind.PAY:
            return move
        return dataclasses.replace(move, saga_to=Status.COMPENSATING, order_to=OrderStatus.PAYING, target=pending)

    return replace(runner, "next_move", next_move)


def omit_row_of_closing() -> Patch:
    original = store.insert_sagas

    async def insert(db: Any, sagas: Sequence[Saga], *arguments: Any) -> None:
        await original(db, [one for one in sagas if one.kind is not Kind.CLOSE], *arguments)

    return replace(store, "insert_sagas", insert)


# Typical mistakes -------------------------------------------------------------------------------------


def mark_undone_on_take_over() -> Patch:
    original = store.get_saga

    async def get_saga(*arguments: Any) -> tuple[Saga, UUID] | None:
        found = await original(*arguments)
        if found is None:
            return None
        return dataclasses.replace(found[0], undone=frozenset({saga.HOLD.undo})), found[1]

    return replace(store, "get_saga", get_saga)


def use_process_clock() -> Patch:
    original = store.read_clock

    async def read_clock(db: Any) -> Any:
        return await original(db) + timedelta(seconds=current.get().clock_skew_seconds)

    return replace(store, "read_clock", read_clock)


def omit_keys_at_start() -> Sequence[Patch]:
    async def claim_keys(_db: Any, _starts: Any) -> dict[Any, Any]:
        return {}

    async def answer_or_attach_keys(_db: Any, _results: Any) -> None: ...

    return replace(starts, "claim_keys", claim_keys), replace(starts, "answer_or_attach_keys", answer_or_attach_keys)


def hold_partly() -> Patch:
    """Hold the lines that are in stock, even if the command is refused for another line."""
    original = product_domain.Batch.do

    def hold(batch: Any, command: Any) -> Mapping[str, Any]:
        short = [line for line in command.lines if batch._units.get(line[0], 0) < line[1]]
        for product, quantity in command.lines:
            if short and batch._units.get(product, 0) >= quantity:
                batch._units[product] -= quantity
        return original(batch, command)

    return replace(product_domain.Batch, "do", hold)


def reorder_outcomes() -> Patch:
    """Return a batch's outcomes in the order of the orders' ids, not of the commands."""
    original = CommandExecutor.run

    async def run(executor: CommandExecutor[Any], commands: Sequence[Any]) -> list[Outcome | None]:
        outcomes = await original(executor, commands)
        return [outcomes[place] for place in sorted(range(len(commands)), key=lambda n: str(commands[n].gate))]

    return replace(CommandExecutor, "run", run)


def omit_undo(kind: Kind, command: str) -> Patch:
    """Omit one undo in the compensation of one kind of saga."""
    kept = tuple(step for step in saga.UNDONE[kind] if step.undo != command)
    return replace(saga, "UNDONE", {**saga.UNDONE, kind: kept})


def redeem_without_reservation() -> Patch:
    """Redeem the coupon in a payment as in a placement, although it is reserved."""
    original = saga.do

    def do(step: saga.Step, order: Order, attempt: int, *, reserved: bool) -> saga.Command:
        return original(step, order, attempt, reserved=reserved and step is not saga.REDEEM)

    return replace(saga, "do", do)
