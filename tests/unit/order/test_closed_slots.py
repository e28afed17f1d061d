"""While a slot moves to another cell, a process begins nothing for it, and does not ask the database about it."""

from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from services.order import store
from services.order.engine.admission import Admission, Lease
from services.order.engine.recovery import Recovery
from services.order.engine.registry import SagaRegistry
from shared.ids import uuid7
from shared.refusals import SlotClosed, Unavailable

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


class Database:
    """Stands in for the pool of the lease and for the comparison of clocks."""

    @asynccontextmanager
    async def connection(self) -> Any:
        yield self

    async def compare(self, asked: Any) -> None:
        await asked


async def test_renewed_lease_is_valid_although_closed_slots_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def renewed(*_: object) -> None: ...

    async def unreadable(*_: object) -> None:
        raise Unavailable

    monkeypatch.setattr(store, "renew_lease", renewed)
    monkeypatch.setattr(store, "list_closed_slots", unreadable)
    database: Any = Database()
    lease, admission = Lease(9), Admission(SagaRegistry(), 8)
    recovery = Recovery(
        FIRST, database, database, admission, host_clock=database, lease=lease, lease_pool=database, sweep_seconds=9
    )
    await recovery.renew()
    assert lease.valid
