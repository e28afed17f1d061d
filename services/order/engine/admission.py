"""How much a process takes on: what it runs at once is bounded, and so are shares of it that may come to a halt.

A participant that is away holds up the sagas that need it until it is back. All orders need products; those without a
coupon must not wait for coupons.
"""

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import Counter

from services.order.engine.registry import SagaRegistry
from shared.refusals import Unavailable

# Orders are turned away while payments and cancellations of those that there are still get as much room again: what was
# begun is worth more than what would be.
HARD_LIMIT_FACTOR = 2
# Of the room. What is left is enough for all that a process can do while nobody keeps it waiting: a quarter of 512 are
# 128 clients (make bench).
COUPONS_SHARE = 3 / 4
# Of the room, for closings of orders with a coupon, and as much for the others. Expiry waits for participants like
# anybody, and nobody waits for it.
EXPIRING_SHARE = 1 / 8
TURNED_AWAY = Counter("orders_turned_away_total", "Orders that were refused because this process had too many sagas")


class Lease:
    """Until when this process surely holds its lease, by its own clock. `recovery.py` renews it."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long it lasts from each renewal on."""
        self.seconds = seconds
        self.given_up()

    @property
    def valid(self) -> bool:
        """Return whether no other process may take this one's sagas yet."""
        return asyncio.get_running_loop().time() < self._valid_until

    def renewed(self, asked_at: float) -> None:
        """Take note that the database has renewed the lease. `asked_at`: the event loop's time before it was asked. So
        the lease runs out here before it does there."""
        self._valid_until = asked_at + self.seconds

    def given_up(self) -> None:
        """Take note that this process wants the lease no more."""
        self._valid_until = float("-inf")

    def check(self) -> None:
        """Raise Unavailable without a valid lease: others would take at once whatever was begun."""
        if not self.valid:
            raise Unavailable("This process has no lease: its database does not answer, or takes no writes.")


class Admission:
    """Says whether there is room for another saga; `sagas_max` is the room for new orders.

    `fitness`: checks that raise Unavailable while this process must not start anything, whatever room there is.
    """

    def __init__(self, registry: SagaRegistry, sagas_max: int, fitness: Sequence[Callable[[], None]] = ()) -> None:
        self._fitness = fitness
        self._registry = registry
        self._sagas_max = sagas_max
        self._coupons_max = max(1, int(sagas_max * COUPONS_SHARE))
        self.expiring_max = max(1, int(sagas_max * EXPIRING_SHARE))

    @property
    def room(self) -> int:
        """Return how many further sagas there is room for; payments and cancellations may go beyond it.

        Of sagas with a coupon, those beyond their share take none: they were not asked whether they fit.
        """
        count = self._registry.count
        beyond = max(0, self._registry.count_with_coupon - self._coupons_max)
        return max(0, min(self._sagas_max - count + beyond, self._sagas_max * HARD_LIMIT_FACTOR - count))

    @property
    def coupons_fit(self) -> bool:
        """Say whether a new order may have a coupon."""
        return self._registry.count_with_coupon < self._coupons_max

    def check_fitness(self) -> None:
        """Raise Unavailable while this process must not start anything."""
        for check in self._fitness:
            check()

    def check_capacity(self, pending: int = 0) -> None:
        """Raise Unavailable if there is no capacity for a further order; to be called before any work for it.

        `pending`: admitted orders that this object does not count yet.
        """
        self.check_fitness()
        if self.room <= pending:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders are being worked on.")

    def make_sure_that_coupons_fit(self) -> None:
        """Raise Unavailable when no further order with a coupon can be placed."""
        if not self.coupons_fit:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders with a coupon are being worked on.")

    def check_hard_limit(self) -> None:
        """Raise Unavailable when there is no room even for going on with an order."""
        self.check_fitness()
        if self._registry.count >= self._sagas_max * HARD_LIMIT_FACTOR:
            raise Unavailable("Too many orders are being worked on.")
