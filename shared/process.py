"""A service as a process: its two subcommands, the event loop, signals and the order of a graceful stop."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import structlog
import uvloop

from shared import logs, migrations
from shared.refusals import Unavailable
from shared.settings import S, ServiceSettings, fail, load

log = structlog.get_logger()

STOP_MAX_SECONDS = 8.0  # within the ten seconds that supervisors commonly allow before they kill
EXIT_STOPPED_LATE = 1
EXIT_FAILED = 1
# Hardly anything of a request is part of a cycle: the default looks for some every 700 objects, a few times a request.
GC_THRESHOLDS = (50_000, 20, 20)


@dataclass(frozen=True, slots=True)
class Service(Generic[S]):
    """What `main` needs to know of a service. `serve` runs until the given event is set."""

    name: str
    settings: type[S]
    schema: str
    migrations: Path
    serve: Callable[[S, asyncio.Event], Awaitable[None]]
    commands: Mapping[str, Callable[[S], Coroutine[Any, Any, int]]] = field(default_factory=dict)


def main(service: Service[S]) -> None:
    """Run `python -m services.<name> [serve|migrate|…]` and exit: 0 done, 1 failed, 2 misconfigured."""
    command, *others = sys.argv[1:] or ["serve"]
    known = {"serve", "migrate", *service.commands}
    if command not in known:
        fail(f"unknown command {command!r}; there are: {', '.join(sorted(known))}")
    if others:
        fail(f"{command} takes no arguments (got {others[0]!r})")
    settings = load(service.settings)
    assert isinstance(settings, ServiceSettings)
    logs.configure(service.name, settings.log_level, settings.log_format)
    if command == "migrate":
        try:
            applied = migrations.migrate(settings.database_url, service.schema, service.migrations)
        except Unavailable as error:
            log.error("not migrated", detail=str(error))  # noqa: TRY400 - expected, needs no trace
            raise SystemExit(EXIT_FAILED) from None
        log.info("migrated", schema=service.schema, applied=applied)
        return
    if command in service.commands:
        raise SystemExit(uvloop.run(service.commands[command](settings)))
    uvloop.run(_serve(service, settings))


async def _serve(service: Service[S], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # What start-up allocated lives for ever: keep it out of every later collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    late = asyncio.create_task(_bound_stop(stop))
    try:
        await service.serve(settings, stop)
    finally:
        late.cancel()
    log.info("stopped")


async def _bound_stop(stop: asyncio.Event) -> None:
    """End the process if its graceful stop hangs, say on a database that doesn't answer. Nothing is lost by it:
    whatever was under way is as recoverable as after a crash."""
    await stop.wait()
    await asyncio.sleep(STOP_MAX_SECONDS)
    log.error("stop took too long", seconds=STOP_MAX_SECONDS)
    sys.stdout.flush()
    os._exit(EXIT_STOPPED_LATE)


@contextlib.asynccontextmanager
async def background(name: str, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `work` beside the body and cancel it at the end; a crash of it is logged and ends the process.

    Use it for loops that must run for the service to be of use: a silent death would go unnoticed.
    """

    async def guarded() -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except BaseException:
            log.exception("background task crashed", task=name)
            signal.raise_signal(signal.SIGTERM)
            raise

    task = asyncio.create_task(guarded(), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
