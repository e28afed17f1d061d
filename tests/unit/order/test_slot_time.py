"""A cell begins nothing while new ids would look like ids without a slot, which belong to another cell."""

from datetime import UTC, datetime, timedelta

import pytest

from services.order.engine.admission import check_slot_time
from shared.postgres.clocks import DatabaseClock
from shared.refusals import Unavailable
from shared.slots import Ownership

SINCE = datetime(2026, 12, 1, tzinfo=UTC)
CELL_0, CELL_1 = Ownership.of(["0-2047", "older"], SINCE), Ownership.of(["2048-4095"], SINCE)


def clock_at(now: datetime) -> DatabaseClock:
    clock = DatabaseClock(lambda: 0.0)
    clock.observe(now)
    return clock


def test_cell_begins_nothing_before_its_ids_contain_slots() -> None:
    with pytest.raises(Unavailable, match="CELL_SLOTS_SINCE"):
        check_slot_time(CELL_1, clock_at(SINCE - timedelta(milliseconds=1)))
    check_slot_time(CELL_1, clock_at(SINCE))
    check_slot_time(CELL_1, DatabaseClock())  # nothing begins anyway while the time is unknown


def test_cell_with_the_older_orders_begins_at_any_time() -> None:
    check_slot_time(CELL_0, clock_at(SINCE - timedelta(days=1)))
