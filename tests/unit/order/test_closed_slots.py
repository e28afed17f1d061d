"""While a slot moves to another cell, a process begins nothing for it, and does not ask the database about it."""

from uuid import UUID

import pytest

from services.order.engine.admission import Admission
from services.order.engine.registry import SagaRegistry
from shared.ids import uuid7
from shared.refusals import SlotClosed

FIRST = uuid7(slot=7)


async def test_only_orders_of_closed_slots_with_ids_since_slots_are_refused() -> None:
    admission = Admission(SagaRegistry(), 8)
    order_id, other, older = uuid7(slot=7), uuid7(slot=8), UUID(int=FIRST.int - (1 << 80))
    admission.check_open(order_id)
    admission.close({7: FIRST})
    with pytest.raises(SlotClosed):
        admission.check_open(order_id)
    admission.check_open(other)
    admission.check_open(older)  # its bits mean nothing
    admission.close({})
    admission.check_open(order_id)
