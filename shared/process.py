"""A service as a process: its two subcommands, the event loop, signals and the order of a graceful stop."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import structlog
import uvloop

from shared import logs, migrations
from shared.background import dead_tasks, on_death
from shared.exits import Exit, end
from shared.postgres import explain
from shared.refusals import Unavailable
from shared.settings import S, ServiceSettings, load

log = structlog.get_logger()

STOP_MAX_SECONDS = 8.0  # within the ten seconds that supervisors commonly allow before they kill
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
    """Run `python -m services.<name> [serve|migrate|…]` and exit with a status of exits.py."""
    _plug_standard_descriptors()
    command, *others = sys.argv[1:] or ["serve"]
    known = {"serve", "migrate", *service.commands}
    if command not in known:
        end(Exit.MISCONFIGURED, f"unknown command {command!r}; there are: {', '.join(sorted(known))}")
    if others:
        end(Exit.MISCONFIGURED, f"{command} takes no arguments (got {others[0]!r})")
    settings = load(service.settings)
    assert isinstance(settings, ServiceSettings)
    logs.configure(service.name, settings.log_level, settings.log_format)
    try:
        status = _run(service, command, settings)
    except KeyboardInterrupt:
        status = Exit.INTERRUPTED
    except Unavailable as error:
        log.error("not done", command=command, detail=explain(error))  # noqa: TRY400 - expected, needs no trace
        status = Exit.FAILED
    except Exception as error:
        log.exception("crashed", command=command, detail=repr(error))
        status = Exit.CRASHED
    raise SystemExit(status)


def _plug_standard_descriptors() -> None:
    """Open those that are closed: else a connection would get the number, and the log would be written to it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free


def _run(service: Service[S], command: str, settings: S) -> int:
    if command == "migrate":
        return _migrate(service, settings)
    if command in service.commands:
        return uvloop.run(service.commands[command](settings))
    return uvloop.run(_serve(service, settings))


def _migrate(service: Service[S], settings: Any) -> Exit:
    try:
        applied = migrations.migrate(settings.database_url, service.schema, service.migrations)
    except Exception as error:
        if migrations.is_transient(error):
            detail = f"{type(error).__name__}: {error}"
            log.error("not migrated", schema=service.schema, detail=detail)  # noqa: TRY400 - expected, needs no trace
            return Exit.FAILED
        log.exception("not migrated", schema=service.schema, detail=repr(error))
        return Exit.NOT_MIGRATED
    log.info("migrated", schema=service.schema, applied=applied)
    return Exit.DONE


async def _serve(service: Service[S], settings: S) -> Exit:
    stop = asyncio.Event()
    on_death(stop.set)
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
    return _stopped(Exit.DONE)


def _stopped(status: Exit) -> Exit:
    """Return the status of a stop: that of its cause comes before how it went."""
    return Exit.TASK_DIED if dead_tasks() else status


async def _bound_stop(stop: asyncio.Event) -> None:
    """End the process if its graceful stop hangs, say on a database that doesn't answer. Nothing is lost by it:
    whatever was under way is as recoverable as after a crash."""
    await stop.wait()
    await asyncio.sleep(STOP_MAX_SECONDS)
    log.error("stop took too long", seconds=STOP_MAX_SECONDS)
    os._exit(_stopped(Exit.STOPPED_LATE))
