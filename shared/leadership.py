"""Elects a leader for work that one replica does at a time: the holder of a lease in Postgres."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from shared.postgres.connections import Connection, Pool
from shared.refusals import Unavailable

Result = TypeVar("Result")


class Leadership(Generic[Result]):
    """This process' part in an election.

    The lease ends by the database's clock, so hosts' clocks need not agree. A lease alone stops no process: after a
    pause, a process continues even if its lease has ended. So check `is_certain` right before an effect that a second
    leader must not repeat or overtake.
    """

    def __init__(
        self,
        take: Callable[[Connection, float], Awaitable[Result]],
        release: Callable[[Connection], Awaitable[object]] | None = None,
    ) -> None:
        """Prepare to take part.

        `take`: in one statement, take the lease or extend it by that many seconds; return something false if another
        process has it. `release`: end this process' lease; without it, the lease is taken for 0 seconds.
        """
        self._take = take
        self._release = release
        self._may_hold = False
        self.certain_until = 0.0  # by the event loop's clock

    async def renew(self, connection: Connection, seconds: float) -> Result:
        """Take the leadership or extend it by `seconds`, and return the result of `take`. Raises Unavailable."""
        asked_at = asyncio.get_running_loop().time()
        self._may_hold = True  # also if the answer is lost
        result = await self._take(connection, seconds)
        self._may_hold = bool(result)
        # From the question on: the lease began no earlier.
        self.certain_until = asked_at + seconds if result else 0.0
        return result

    @property
    def is_certain(self) -> bool:
        """Return whether this process' last lease is still valid; false if it was paused for longer than the lease."""
        return asyncio.get_running_loop().time() <= self.certain_until

    async def release(self, pool: Pool) -> None:
        """If this process may be the leader, end its lease, so that another replica can lead immediately."""
        if not self._may_hold:
            return
        with suppress(Unavailable):  # the lease expires
            async with pool.connection() as connection:
                await (self._take(connection, 0) if self._release is None else self._release(connection))
