"""The database's clock, as a process knows it without asking, and how far this host's clock differs from it.

If the two disagree, one of them is wrong, and it is unknown which.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from prometheus_client import Gauge

from shared.postgres.connections import Connection
from shared.refusals import Unavailable

ANSWER_LATE_MAX = timedelta(seconds=5)
# Kerberos allows as much. Hosts that synchronise their clocks differ by less than a second, and our rules count in
# minutes (timeouts of payments) or days (retention, at least seven).
SKEW_MAX_SECONDS = 300.0
SKEW = Gauge("host_clock_skew_seconds", "How far this host's clock was ahead of the database's when last compared")
READ_CLOCK = "SELECT clock_timestamp()"


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


class ClocksDisagree(Unavailable):
    """This host's clock and the database's differ by minutes or more."""


class HostClock:
    """How far this host's clock was ahead of the database's at the last comparison.

    `database`: a clock that observes the database's time at each comparison.
    """

    def __init__(self, database: DatabaseClock | None = None) -> None:
        self._database = database
        self._ahead_seconds = 0.0

    @property
    def agrees(self) -> bool:
        """Return whether the clocks differ by at most SKEW_MAX_SECONDS; true before the first comparison."""
        return abs(self._ahead_seconds) <= SKEW_MAX_SECONDS

    def check(self) -> None:
        """Raise ClocksDisagree unless `agrees`."""
        if not self.agrees:
            direction = "ahead of" if self._ahead_seconds > 0 else "behind"
            raise ClocksDisagree(f"this host's clock is {abs(self._ahead_seconds):.0f} s {direction} the database's")

    async def compare(self, read: Awaitable[datetime]) -> None:
        """Compare the clocks; `read` returns the database's time.

        The database read its clock between the question and the answer; the middle of the two is taken.
        """
        asked_at = time.time()
        now = await read
        self._ahead_seconds = (asked_at + time.time()) / 2 - now.timestamp()
        SKEW.set(self._ahead_seconds)
        if self._database is not None:
            self._database.observe(now)

    async def compare_and_check(self, db: Connection) -> None:
        """Compare the clocks before an act that can't be undone. Raises ClocksDisagree unless they agree."""
        await self.compare(db.fetchval(READ_CLOCK))
        self.check()
