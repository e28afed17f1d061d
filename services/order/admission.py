"""How much a process takes on: what it runs at once is bounded, and so is what may be held up by any one cause.

A participant that does not answer holds up the sagas that need it, until it is back. They may take a share of the room;
what needs others goes on in the rest.
"""

from prometheus_client import Counter

from services.order.runner import Runner
from services.order.saga import Kind, Participant, needed
from shared.refusals import Unavailable

# Orders are turned away while payments and cancellations of those that there are still get as much room again: what was
# begun is worth more than what would be.
ROOM_TO_GO_ON = 2
# Shares of the room. While coupons are away, half of it is left for orders without one; expiry waits for participants
# like anybody, and nobody waits for it.
HELD_UP_SHARE = 1 / 2
EXPIRING_SHARE = 1 / 4
TURNED_AWAY = Counter("orders_turned_away_total", "Orders that were refused because this process had too many sagas")


class Admission:
    """Says whether there is room for another saga; `sagas_max` is the room for new orders."""

    def __init__(self, runner: Runner, sagas_max: int) -> None:
        self._runner = runner
        self._sagas_max = sagas_max
        self.expiring_max = max(1, int(sagas_max * EXPIRING_SHARE))

    @property
    def room(self) -> int:
        """Return how many further sagas there is room for; payments and cancellations may go beyond it."""
        return max(0, self._sagas_max - self._runner.count)

    def make_sure_of_room(self, on_the_way: int = 0) -> None:
        """Raise Unavailable when no further order can be placed: to be asked before any work is done for one.

        `on_the_way`: how many others will be, of which nothing is known here yet.
        """
        if self.room <= on_the_way:
            TURNED_AWAY.inc()
            raise Unavailable("Too many orders are being worked on.")

    def make_sure_it_gets_on(self, kind: Kind, *, coupon: bool) -> None:
        """Raise Unavailable when a new order needs a participant that does not answer, and too many wait for it."""
        for participant in needed(kind, coupon=coupon):
            if self._too_many_wait_for(participant):
                TURNED_AWAY.inc()
                raise Unavailable(f"Too many orders wait for the {participant} service, which does not answer.")

    def make_sure_it_goes_on(self) -> None:
        """Raise Unavailable when there is no room even for going on with an order."""
        if self._runner.count >= self._sagas_max * ROOM_TO_GO_ON:
            raise Unavailable("Too many orders are being worked on.")

    def _too_many_wait_for(self, participant: Participant) -> bool:
        return self._runner.held_up(participant) >= max(1, self._sagas_max * HELD_UP_SHARE)
