"""Compares this host's clock with the database's. If they disagree, one of them is wrong, and nobody can tell which."""

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from prometheus_client import Gauge

from shared.database_clock import DatabaseClock
from shared.http.readiness import Check
from shared.postgres import Connection, Session
from shared.refusals import Unavailable

# As Kerberos and cloud providers have it: hosts that synchronise their clocks stay below a second, and rules by time
# count in minutes (an order's time to pay) or days (what is forgotten: seven at the least).
SKEW_MAX_SECONDS = 300.0
SKEW = Gauge("host_clock_skew_seconds", "How far this host's clock was ahead of the database's when last compared")
READ_CLOCK = "SELECT clock_timestamp()"


class ClocksDisagree(Unavailable):
    """This host's clock and the database's differ by minutes or more."""


class HostClock:
    """How far this host's clock is ahead of the database's, as it was last compared.

    `database`: the clock that is told what the database's time is, whenever they are compared.
    """

    def __init__(self, database: DatabaseClock | None = None) -> None:
        self._database = database
        self._ahead_seconds = 0.0

    @property
    def agrees(self) -> bool:
        """Return whether the clocks differ by no more than SKEW_MAX_SECONDS. So they do until they are compared."""
        return abs(self._ahead_seconds) <= SKEW_MAX_SECONDS

    def check(self) -> None:
        """Raise ClocksDisagree unless `agrees`."""
        if not self.agrees:
            direction = "ahead of" if self._ahead_seconds > 0 else "behind"
            raise ClocksDisagree(f"this host's clock is {abs(self._ahead_seconds):.0f} s {direction} the database's")

    async def compare(self, read: Awaitable[datetime]) -> None:
        """Compare the clocks by what the database says its time is.

        It was so at some moment between question and answer, of which the middle is taken.
        """
        asked_at = time.time()
        now = await read
        self._ahead_seconds = (asked_at + time.time()) / 2 - now.timestamp()
        SKEW.set(self._ahead_seconds)
        if self._database is not None:
            self._database.observe(now)

    async def compare_and_check(self, db: Connection) -> None:
        """Ask the database for its time. Raise ClocksDisagree unless the clocks agree: before what can't be undone."""
        await self.compare(db.fetchval(READ_CLOCK))
        self.check()


def database_checks(
    session: Session, read: Callable[[Connection], Awaitable[object]], host_clock: HostClock
) -> Mapping[str, Check]:
    """Return the checks of /readyz that every service has: `read` must succeed, and the clocks must agree."""

    async def database() -> None:
        async with session.statement() as db:
            await read(db)

    async def clock() -> None:
        async with session.statement() as db:
            await host_clock.compare_and_check(db)

    return {"database": database, "clock": clock}
