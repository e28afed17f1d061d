"""Which commands repair a finding: an orphan's undo, or what a restored participant has forgotten. No I/O."""

from collections.abc import Sequence

from services.order.audit.rules import UNDO, Finding, Kind
from services.order.domain import Order, OrderStatus
from services.order.product_shards import participant_at
from services.order.saga import DEBIT, HOLD, REDEEM, RESERVE, Command, Participant, do
from shared.fast_dataclass import replace


def repairs(findings: Sequence[Finding]) -> list[Command]:
    """Return the undos that give orphans back."""
    commands = []
    for finding in findings:
        if finding.kind is Kind.ORPHAN and finding.order_id is not None:
            undo = UNDO[participant_at(finding.participant)]
            # To where the hold was found, and to no other shard.
            commands.append(Command(finding.participant, undo, str(finding.order_id), 0, {}))
    return commands


def lacking(order: Order, finding: Finding) -> Command | None:
    """Return the command that a participant has applied once and has forgotten since, because it was restored.

    `order`: the order of the finding, as it is stored. Its amounts count, and not today's prices. None if no command
    of the order's can explain the finding: somebody has changed the data.
    """
    participant = participant_at(finding.participant)
    if participant is Participant.COUPON:
        return _coupon(order, finding)
    if finding.kind is not Kind.MISSING:
        return None
    if participant is Participant.BALANCE:
        return do(DEBIT, order, order.payment_attempt, reserved=False)
    # One of several product shards gets only the lines of its products.
    lines = tuple(line for line in order.lines if line.product_id in finding.due)
    return replace(do(HOLD, replace(order, lines=lines), 0, reserved=False), participant=finding.participant)


def _coupon(order: Order, finding: Finding) -> Command | None:
    """Return the command of an order with a coupon. The coupon may be back at its reservation, or before it."""
    paid = order.status is OrderStatus.PAID
    if finding.kind is Kind.MISSING:
        return do(REDEEM if paid else RESERVE, order, 0, reserved=False)
    if paid and finding.kind is Kind.DIFFERENT and finding.found == {order.coupon_id: "RESERVED"}:
        return do(REDEEM, order, 0, reserved=True)
    return None
