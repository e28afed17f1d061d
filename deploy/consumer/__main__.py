"""`python -m deploy.consumer`: puts the consumer together and runs it.

Further commands: `migrate` makes its tables, `retry` tries to read dead letters again.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from deploy.consumer import api, gaps, intake, store, watermarks
from deploy.consumer.completeness import Completeness
from deploy.consumer.duty import repeat
from deploy.consumer.reader import Reader
from deploy.consumer.relay import Relay
from deploy.consumer.settings import ConsumerSettings, replica
from shared.background import LoopSupervisor, background
from shared.exits import Exit
from shared.host_clock import HostClock, database_checks
from shared.http.server import HttpServer
from shared.postgres import Pool, Session
from shared.process import Service, main

log = structlog.get_logger()

GAPS_SECONDS = 0.5  # how soon a missing event is asked for
MEASURE_SECONDS = 5.0
PRUNE_SECONDS = 600.0
PRUNE_EVENTS = 5000  # in one statement, so that none takes long
RETRIED_MAX = 10_000


async def serve(settings: ConsumerSettings, stop: asyncio.Event) -> None:
    """Consume until `stop` is set."""
    name = replica()
    async with (
        Pool(settings, "consumer") as pool,
        Session(settings, "consumer readiness", checked=True) as readiness,
        Relay(settings) as relay,
        AsyncExitStack() as tasks,
    ):
        reader = Reader(settings, pool)
        completeness = Completeness(settings, pool, relay)

        host_clock = HostClock()

        async def prune() -> None:
            async with pool.connection() as db:
                await host_clock.compare_and_check(db)
                while await store.prune(db, settings.keep_hours * 3600, PRUNE_EVENTS):
                    pass

        duties = {
            "gaps": (GAPS_SECONDS, lambda: gaps.fill(pool, relay)),
            "completeness": (settings.check_interval_seconds, completeness.check),
            "prune": (PRUNE_SECONDS, prune),
        }
        for duty, (seconds, work) in duties.items():
            doing = lambda duty=duty, seconds=seconds, work=work: repeat(duty, name, pool, seconds, stop, work)  # noqa: E731
            await tasks.enter_async_context(background(duty, doing))
        await tasks.enter_async_context(background("measures", lambda: measure(completeness)))
        await tasks.enter_async_context(background("watermarks", lambda: watermarks.read(settings, pool, stop)))
        database = database_checks(readiness, lambda db: store.positions(db, settings.topic), host_clock)
        checks = {**database, "reader": reader.check}
        server = HttpServer("consumer", api.DESCRIPTION, settings, api.routes(settings, pool), checks)
        await asyncio.gather(server.run(stop), reader.run(stop))


async def measure(completeness: Completeness) -> None:
    """Set the gauges, for ever."""
    supervisor = LoopSupervisor("measures", "not measured")
    while True:
        with supervisor:
            await completeness.measure()
        await asyncio.sleep(supervisor.pause(MEASURE_SECONDS))


async def retry(settings: ConsumerSettings) -> int:
    """Try to read dead letters again; the command fails if some still can't be."""
    async with Pool(settings, "consumer retry") as pool:
        resolved, left = await intake.retry_dead_letters(pool, RETRIED_MAX)
    log.info("dead letters retried", resolved=resolved, left=left)
    return Exit.FAILED if left else Exit.DONE


if __name__ == "__main__":
    main(
        Service(
            name="consumer",
            settings=ConsumerSettings,
            schema="platform",
            migrations=Path(__file__).with_name("migrations"),
            serve=serve,
            commands={"retry": retry},
        )
    )
