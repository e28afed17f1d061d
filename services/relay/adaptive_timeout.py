"""How long a call of the database may take that walks over dead entries while an old snapshot keeps them."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared import connecting

# Enough to pass all that a partition ever held. A walk that is cut off only begins again.
WALK_SECONDS = 300.0
GROWTH = 3


class AdaptiveTimeout:
    """The time limit of one call: the usual one, and more each time that was not enough.

    Not the most from the start: the limit also is what notices a connection whose server is gone without a word, and a
    failover would then cost minutes. It never shrinks, as what takes long once comes again.
    """

    def __init__(self) -> None:
        self._seconds = connecting.COMMAND_TIMEOUT_SECONDS

    @contextmanager
    def limit(self) -> Iterator[float]:
        """Lend the limit to one call in the body, which raises TimeoutError when it is cut off."""
        try:
            yield self._seconds
        except TimeoutError:
            self._seconds = min(WALK_SECONDS, GROWTH * self._seconds)
            raise
