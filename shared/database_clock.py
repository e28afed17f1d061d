"""The database's clock as a process knows it, without asking."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

ANSWER_LATE_MAX = timedelta(seconds=5)


class DatabaseClock:
    """Estimates the database's time: the timestamp observed last, plus the time since.

    It lags by the time that an answer takes to arrive, and goes back only if the server's clock does.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._observed: datetime | None = None
        self._observed_at = 0.0

    @property
    def known(self) -> bool:
        """Return whether a timestamp was observed yet."""
        return self._observed is not None

    def observe(self, now: datetime) -> None:
        """Take a timestamp that a statement has just returned."""
        # Answers can overtake each other, so a slightly older timestamp is ignored.
        if self._observed is None or not timedelta() <= self._observed - now < ANSWER_LATE_MAX:
            self._observed, self._observed_at = now, self._elapsed()

    def now(self) -> datetime:
        """Return the estimated time of the database."""
        assert self._observed is not None
        return self._observed + timedelta(seconds=self._elapsed() - self._observed_at)
