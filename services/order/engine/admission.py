"""How much a process takes on: what it runs at once is bounded, and so are shares of it that may come to a halt.

A participant that is away holds up the sagas that need it until it is back. All orders need products; those without a
coupon must not wait for coupons.
"""

from collections.abc import Callable

from prometheus_client import Counter

from services.order.engine.registry import Running
from shared.refusals import Unavailable

# Orders are turned away while payments and cancellations of those that there are still get as much room again: what was
# begun is worth more than what would be.
ROOM_TO_GO_ON = 2
# Of the room. What is left is enough for all that a process can do while nobody keeps it waiting: a quarter of 512 are
# 128 clients (make bench).
COUPONS_SHARE = 3 / 4
# Of the room, for closings of orders with a coupon, and as much for the others. Expiry waits for participants like
# anybody, and nobody waits for it.
EXPIRING_SHARE = 1 / 8
TURNED_AWAY = Counter("orders_turned_away_total", "Orders that were refused because this process had too many sagas")


class Admission:
    """Says whether there is room for another saga; `sagas_max` is the room for new orders.

    `check_fitness` raises Unavailable while this process must not start anything, whatever room there is.
    """

    def __init__(self, running: Running, sagas_max: int, check_fitness: Callable[[], None] = lambda: None) -> None:
        self.check_fitness = check_fitness
        self._running = running
        self._sagas_max = sagas_max
        self._coupons_max = max(1, int(sagas_max * COUPONS_SHARE))
        self.expiring_max = max(1, int(sagas_max * EXPIRING_SHARE))

    @property
    def room(self) -> int:
        """Return how many further sagas there is room for; payments and cancellations may go beyond it.

        Of sagas with a coupon, those beyond their share take none: they were not asked whether they fit.
        """
        count = self._running.count
        beyond = max(0, self._running.count_with_coupon - self._coupons_max)
        return max(0, min(self._sagas_max - count + beyond, self._sagas_max * ROOM_TO_GO_ON - count))

    @property
    def coupons_fit(self) -> bool:
        """Say whether a new order may have a coupon."""
        return self._running.count_with_coupon < self._coupons_max

    def make_sure_of_room(self, on_the_way: int = 0) -> None:
        """Raise Unavailable when no further order can be placed: to be asked before any work is done for one.

        `on_the_way`: how many others will be, of which nothing is known here yet.
        """
        self.check_fitness()
        if self.room <= on_the_way:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders are being worked on.")

    def make_sure_that_coupons_fit(self) -> None:
        """Raise Unavailable when no further order with a coupon can be placed."""
        if not self.coupons_fit:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders with a coupon are being worked on.")

    def make_sure_it_goes_on(self) -> None:
        """Raise Unavailable when there is no room even for going on with an order."""
        self.check_fitness()
        if self._running.count >= self._sagas_max * ROOM_TO_GO_ON:
            raise Unavailable("Too many orders are being worked on.")
