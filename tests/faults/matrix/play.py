"""Plays one cell of the crash matrix: brings an order to the point where the command is sent, injects the fault, and
waits for the one correct end."""

import asyncio
from datetime import UTC, datetime

import orjson

from services.order.domain import OrderId, OrderStatus
from services.order.engine.operations import Start, new_order
from services.order.engine.registry import Lane
from services.order.saga import STEPS, Kind
from tests.faults.matrix.cells import PLACES, Cell, Course, Fault, Point, Scenario
from tests.faults.matrix.network import Trap
from tests.faults.matrix.processes import CrashingProcess
from tests.faults.matrix.rig import END_SECONDS, Customer, Rig

CLOSED = {OrderStatus.PENDING_PAYMENT: OrderStatus.CANCELLED, OrderStatus.PAID: OrderStatus.REFUNDED}
EXPIRING_SECONDS = 0.001


async def play(rig: Rig, cell: Cell) -> None:
    """Play a cell. Raises AssertionError unless it ends in its one correct outcome."""
    scenario = cell.scenario
    expiring = scenario.course is Course.EXPIRED
    process = await rig.process(payment_timeout_seconds=EXPIRING_SECONDS if expiring else 900.0)
    trap = Trap(cell)
    order_id = await _struck(rig, process, scenario, trap)
    if cell.fault is Fault.KILLED:
        await process.kill()
    await rig.ended(order_id, cell)
    assert (await rig.order(order_id)).status is scenario.end
    if cell.point is Point.LATE:
        await _late(rig, trap, order_id)


async def _struck(rig: Rig, process: CrashingProcess, scenario: Scenario, trap: Trap) -> OrderId:
    """Begin the operation, and return its order once the fault has happened."""
    start = await _start(rig, process, scenario)
    if scenario.course is Course.FORCED:
        # A process has done all steps and is killed before its commit; its lease stays valid for a while.
        last = Cell(scenario, STEPS[scenario.kind][-1].do, Point.NOT_RECORDED, Fault.KILLED)
        await _begin(rig, await rig.process(), start, Trap(last))
        rig.network.traps[start.order_id] = trap
        await rig.force(start.order_id, process)
        await asyncio.wait_for(trap.struck, END_SECONDS)
    else:
        await _begin(rig, process, start, trap)
    return start.order_id


async def _start(rig: Rig, process: CrashingProcess, scenario: Scenario) -> Start:
    """Return the operation that gets the fault, on an order with the required status."""
    customer = await _customer(rig, scenario)
    kind = scenario.kind
    pay_now = kind is Kind.PLACE_NOW or scenario.course is Course.PAID
    order = new_order(
        datetime.now(UTC), customer.user_id, [(customer.product_id, 1)], customer.coupon_id, pay_now=pay_now
    )
    place = Start(Kind.PLACE_NOW if pay_now else Kind.PLACE_LATER, order.order_id, order)
    if kind in PLACES:
        return place
    await process.parts.checkout._begin(place, process.parts.checkout.deadline(), Lane.COUPON)
    await rig.ended(order.order_id, "the placement")
    return Start(kind, order.order_id, expiring=scenario.course is Course.EXPIRED)


async def _customer(rig: Rig, scenario: Scenario) -> Customer:
    if scenario.course is not Course.REFUSED:
        return await rig.customer()
    if scenario.kind is Kind.PLACE_NOW:
        return await rig.customer(balance=1)
    return await rig.customer(coupon_of_another=True)


async def _begin(rig: Rig, process: CrashingProcess, start: Start, trap: Trap) -> None:
    rig.network.traps[start.order_id] = trap
    await process.parts.checkout._begin(start, process.parts.checkout.deadline(), Lane.COUPON)
    await asyncio.wait_for(trap.struck, END_SECONDS)


async def _late(rig: Rig, trap: Trap, order_id: OrderId) -> None:
    """Deliver the command after its undo; if the saga succeeded, cancel the order first."""
    cell = trap.cell
    end = cell.scenario.end
    if cell.scenario.course is Course.FORWARD:
        await (await rig.process()).parts.checkout.cancel(order_id, None)
        end = CLOSED[end]
    (status, body), *others = await rig.network.deliver_late(trap)
    assert (status, others) == (200, [])
    (outcome,) = orjson.loads(body)["outcomes"]
    if cell.scenario.course is Course.FORWARD:
        assert outcome["problem"]["type"] == "/problems/fenced"
    else:
        assert outcome["outcome"] == "applied"
    assert (await rig.order(order_id)).status is end
