"""Limits how many sagas a process runs at the same time, in total and per lane.

Orders with a coupon leave capacity for the others, so that orders without a coupon continue while the coupon service is
unavailable.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from prometheus_client import Counter, Gauge

from services.order.engine.registry import Lane, SagaRegistry
from shared.postgres.clocks import DatabaseClock
from shared.refusals import SlotClosed, Unavailable
from shared.slots import Ownership, is_in

# Beyond the limit for new orders, payments and cancellations have the same capacity once more: an existing order is
# worth more than a new one.
HARD_LIMIT_FACTOR = 2
# The largest share of all sagas per lane; a lane that is not listed has no limit. Orders with a coupon leave a quarter:
# 128 of 512 sagas, with which a process without coupons reaches its highest throughput (make bench).
LANE_SHARES: dict[Lane | str, float] = {Lane.COUPON: 3 / 4}
# The same for the orders with products of one of several product shards.
SHARD_SHARE = 3 / 4
# The largest share of all sagas that may close expired orders, per lane. Expiry waits for participants like every saga,
# but no client waits for expiry.
EXPIRING_SHARE = 1 / 8
TURNED_AWAY = Counter("orders_turned_away_total", "Orders that were refused because this process had too many sagas")
RUNNING_MAX = Gauge("sagas_running_max", "Sagas up to which something may begin", ["what"])


class Lease:
    """Tracks, by this process' own clock, until when it certainly holds its lease. `recovery.py` renews the lease."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long the lease lasts after each renewal."""
        self.seconds = seconds
        self.given_up()

    @property
    def valid(self) -> bool:
        """Return whether the lease is valid: no other process may take this one's sagas yet."""
        return asyncio.get_running_loop().time() < self._valid_until

    def renewed(self, asked_at: float) -> None:
        """Record that the database has renewed the lease.

        `asked_at`: the event loop's time before the query, so that the lease ends no later here than in the database.
        """
        self._valid_until = asked_at + self.seconds

    def given_up(self) -> None:
        """Record that this process releases its lease."""
        self._valid_until = float("-inf")

    def check(self) -> None:
        """Raise Unavailable unless the lease is valid: without it, others would take a new saga immediately."""
        if not self.valid:
            raise Unavailable("This process has no lease: its database does not answer, or takes no writes.")


def check_slot_time(ownership: Ownership, clock: DatabaseClock) -> None:
    """Raise Unavailable if an order's id that was made now would be one without a slot, and so of another cell."""
    if not ownership.older and clock.known and ownership.is_before_slots(clock.now()):
        raise Unavailable("The database's clock is before CELL_SLOTS_SINCE.")


class Admission:
    """Limits the sagas of this process: in total, per lane, and those that close expired orders.

    `sagas_max` is the limit for new orders; payments and cancellations have a hard limit above it. Each check of
    `fitness` raises Unavailable while this process must not start anything, even with free capacity.
    """

    def __init__(self, registry: SagaRegistry, sagas_max: int, fitness: Sequence[Callable[[], None]] = ()) -> None:
        self._fitness = fitness
        self._closed: Mapping[int, UUID] = {}
        self._registry = registry
        self._sagas_max = sagas_max
        self._hard_limit = sagas_max * HARD_LIMIT_FACTOR
        shares = LANE_SHARES | dict.fromkeys(registry.shard_lanes, SHARD_SHARE)
        self._lane_limits = {lane: max(1, int(sagas_max * share)) for lane, share in shares.items()}
        self._expiring_limit = max(1, int(sagas_max * EXPIRING_SHARE))
        RUNNING_MAX.labels("new_order").set(sagas_max)
        RUNNING_MAX.labels("new_order_with_coupon").set(self._lane_limits[Lane.COUPON])
        for place in registry.shard_lanes:  # all have the same
            RUNNING_MAX.labels("new_order_of_shard").set(self._lane_limits[place])
        RUNNING_MAX.labels("any").set(self._hard_limit)

    def close(self, slots: Mapping[int, UUID]) -> None:
        """Take note of the slots that are closed in the database, with the least id to which each applies."""
        self._closed = slots

    def check_open(self, order_id: UUID) -> None:
        """Raise SlotClosed if an order's users are moving to another cell.

        The database refuses such a start in any case. But there it would fail the batch that it is in, and all of the
        batch's starts would be committed one by one.
        """
        if self._closed and is_in(self._closed, order_id):
            raise SlotClosed

    @property
    def available(self) -> int:
        """Return how many further orders may be placed. Payments and cancellations may exceed this number.

        Sagas beyond their lane's limit do not count: they were taken over, or began without a check of the lane.
        Otherwise they would use the capacity of the other lane.
        """
        count = self._registry.count
        # The largest, and not the sum: a saga may be in several lanes.
        excess = max(0, *(self._registry.count_in(lane) - limit for lane, limit in self._lane_limits.items()))
        return max(0, min(self._sagas_max - count + excess, self._hard_limit - count))

    def available_to_expiry(self, expiring: int) -> int:
        """Return how many further orders of a lane may expire, while `expiring` orders do."""
        return min(self.available, self._expiring_limit - expiring)

    def has_capacity_in(self, *lanes: Lane | str) -> bool:
        """Return whether a new order may join these lanes."""
        for lane in lanes:
            limit = self._lane_limits.get(lane)
            if limit is not None and self._registry.count_in(lane) >= limit:
                return False
        return True

    def check_fitness(self) -> None:
        """Raise Unavailable while this process must not start anything."""
        for check in self._fitness:
            check()

    def check_capacity(self, pending: int = 0) -> None:
        """Raise Unavailable if no further order can be placed. Call this before any work for an order.

        `pending`: orders that will be placed before this one, but are not in the registry yet.
        """
        self.check_fitness()
        if self.available <= pending:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders are being worked on.")

    def check_lanes(self, *lanes: Lane | str) -> None:
        """Raise Unavailable if no further order can join these lanes."""
        for lane in lanes:
            if not self.has_capacity_in(lane):
                TURNED_AWAY.inc()
                what = "with a coupon" if lane is Lane.COUPON else "of these products"
                raise Unavailable(f"Too many orders {what} are being worked on.")

    def check_hard_limit(self) -> None:
        """Raise Unavailable if not even a payment or cancellation can start."""
        self.check_fitness()
        if self._registry.count >= self._hard_limit:
            raise Unavailable("Too many orders are being worked on.")
