"""Runs the checks of /readyz within a time limit, once for all concurrent probes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from shared.postgres.clocks import HostClock
from shared.postgres.connections import Session
from shared.postgres.errors import with_cause
from shared.postgres.query_check import QueryCheck
from shared.process.stopping import Stop

Check = Callable[[], Awaitable[None]]

# A balancer commonly waits one second for a probe. The rest is for the network and a busy event loop.
CHECK_SECONDS = 0.8
REASON_CHARACTERS = 3000  # a reason may contain the commands that fix a problem, a line for each topic
# How long a listener for clients waits at most for its process to be ready. After that, its clients are told by 503.
FIRST_READY_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.1
NO_ANSWER = f"no answer within {CHECK_SECONDS} s"


class Readiness:
    """Runs checks. A check raises if the service can't serve requests."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._round: asyncio.Task[dict[str, str]] | None = None
        self._running: dict[str, asyncio.Task[str]] = {}

    async def ask(self) -> dict[str, str]:
        """Return "ok" or the reason why not for each check, within CHECK_SECONDS.

        Probes that come while the checks run share their answers, so that frequent probes add no load to what is slow.
        """
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run_all())
        return await asyncio.shield(self._round)

    async def first_ready(self, stop: Stop) -> None:
        """Wait until all checks pass for the first time, at most FIRST_READY_SECONDS, or until a stop is announced.

        A balancer that checks nothing sends requests as soon as it knows an address. If nobody listens there yet, the
        balancer tries another replica.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READY_SECONDS):
                while not stop.announced and not await self._passes():  # noqa: ASYNC110 - nothing signals it
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _passes(self) -> bool:
        return all(answer == "ok" for answer in (await self.ask()).values())

    async def _run_all(self) -> dict[str, str]:
        # A check that an earlier round cancelled may still be closing its connection; it is not started a second time.
        still = {name: task for name, task in self._running.items() if not task.done()}
        self._running = {
            name: still.get(name) or asyncio.create_task(_run(check), name=f"check {name}")
            for name, check in self._checks.items()
        }
        if self._running:
            await asyncio.wait(self._running.values(), timeout=CHECK_SECONDS)
        answers = {}
        for name, task in self._running.items():
            answers[name] = task.result() if task.done() and not task.cancelled() else NO_ANSWER
            task.cancel()
        return answers


async def _run(check: Check) -> str:
    try:
        await check()
    except Exception as error:  # noqa: BLE001 - any error is the answer of its check
        return f"{type(error).__name__}: {with_cause(error)}"[:REASON_CHARACTERS]
    return "ok"


def database_checks(session: Session, queries: Mapping[str, str], host_clock: HostClock) -> Mapping[str, Check]:
    """Return the checks of /readyz that every service has: `queries` can be executed, and the clocks agree."""
    query_check = QueryCheck(queries)

    async def database() -> None:
        async with session.statement() as db:
            await query_check.run(db)

    async def clock() -> None:
        async with session.statement() as db:
            await host_clock.compare_and_check(db)

    return {"database": database, "clock": clock}
