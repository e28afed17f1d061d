"""Limits how many sagas a process runs at once, in total and by lane.

While a participant is unavailable, the sagas that need it wait. All orders need the product service. Orders without a
coupon must not wait for the coupon service, so the others leave them capacity.
"""

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import Counter

from services.order.engine.registry import Lane, SagaRegistry
from shared.refusals import Unavailable

# New orders are refused while payments and cancellations still have as much capacity again: an order that exists is
# worth more than a new one.
HARD_LIMIT_FACTOR = 2
# Of all sagas, the most that a lane may have; a lane that is not named here is not limited. The quarter that orders
# with a coupon leave is enough for all that a process can do without them: 128 clients of 512 (make bench).
LANE_SHARES = {Lane.COUPON: 3 / 4}
# Of all sagas, the most that may be closings of expired orders, in each lane. Expiry waits for participants like every
# saga, but no client waits for expiry.
EXPIRING_SHARE = 1 / 8
TURNED_AWAY = Counter("orders_turned_away_total", "Orders that were refused because this process had too many sagas")


class Lease:
    """Tracks by this process' own clock until when it surely holds its lease. `recovery.py` renews it."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long it lasts from each renewal on."""
        self.seconds = seconds
        self.given_up()

    @property
    def valid(self) -> bool:
        """Return whether no other process may take this one's sagas yet."""
        return asyncio.get_running_loop().time() < self._valid_until

    def renewed(self, asked_at: float) -> None:
        """Record that the database has renewed the lease. `asked_at`: the event loop's time before the query, so that
        the lease ends here before it ends there."""
        self._valid_until = asked_at + self.seconds

    def given_up(self) -> None:
        """Record that this process gives its lease up."""
        self._valid_until = float("-inf")

    def check(self) -> None:
        """Raise Unavailable without a valid lease: other processes would take a new saga at once."""
        if not self.valid:
            raise Unavailable("This process has no lease: its database does not answer, or takes no writes.")


class Admission:
    """Limits the sagas of this process: all of them, those of each lane, and those that close expired orders.

    `sagas_max` is the limit for new orders; payments and cancellations have a hard limit above it. `fitness` are checks
    that raise Unavailable while this process must not start anything, whatever its capacity.
    """

    def __init__(self, registry: SagaRegistry, sagas_max: int, fitness: Sequence[Callable[[], None]] = ()) -> None:
        self._fitness = fitness
        self._registry = registry
        self._sagas_max = sagas_max
        self._hard_limit = sagas_max * HARD_LIMIT_FACTOR
        self._lane_limits = {lane: max(1, int(sagas_max * share)) for lane, share in LANE_SHARES.items()}
        self._expiring_limit = max(1, int(sagas_max * EXPIRING_SHARE))

    @property
    def available(self) -> int:
        """Return how many further sagas may start; payments and cancellations may go beyond it.

        Sagas beyond their lane's limit do not count, for they were taken over or began without a check of the lane.
        Else they would take the capacity of the other lane.
        """
        count = self._registry.count
        excess = sum(max(0, self._registry.count_in(lane) - limit) for lane, limit in self._lane_limits.items())
        return max(0, min(self._sagas_max - count + excess, self._hard_limit - count))

    def available_to_expiry(self, expiring: int) -> int:
        """Return how many further orders of a lane may be expired, while `expiring` are."""
        return min(self.available, self._expiring_limit - expiring)

    def has_capacity_in(self, lane: Lane) -> bool:
        """Return whether a new order may join a lane."""
        limit = self._lane_limits.get(lane)
        return limit is None or self._registry.count_in(lane) < limit

    def check_fitness(self) -> None:
        """Raise Unavailable while this process must not start anything."""
        for check in self._fitness:
            check()

    def check_capacity(self, pending: int = 0) -> None:
        """Raise Unavailable when no further order can be placed. Call it before any work is done for an order.

        `pending`: orders that will be placed before it, and that the registry does not know yet.
        """
        self.check_fitness()
        if self.available <= pending:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders are being worked on.")

    def check_lane(self, lane: Lane) -> None:
        """Raise Unavailable when no further order can join a lane."""
        if not self.has_capacity_in(lane):
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders with a coupon are being worked on.")

    def check_hard_limit(self) -> None:
        """Raise Unavailable when not even a payment or cancellation can start."""
        self.check_fitness()
        if self._registry.count >= self._hard_limit:
            raise Unavailable("Too many orders are being worked on.")
