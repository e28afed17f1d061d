"""Runs a service as a process: subcommands, the event loop, signals and a graceful stop."""

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

from shared.postgres.errors import explain
from shared.process import build, logs
from shared.process.exits import Exit, end
from shared.process.settings import S, ServiceSettings, load
from shared.process.stopping import Stop
from shared.process.tasks import essentials
from shared.refusals import Unavailable
from shared.tracing.spans import tracing

log = structlog.get_logger()

STOP_MAX_SECONDS = 8.0  # within the ten seconds that supervisors commonly allow before they kill
# Requests create almost no reference cycles. By default the collector runs every 700 objects, several times a request.
GC_THRESHOLDS = (50_000, 20, 20)


@dataclass(frozen=True, slots=True)
class Service(Generic[S]):
    """What `main` needs from a service. `serve` runs until the given event is set; `parameters` are the migrations'."""

    name: str
    settings: type[S]
    schema: str
    migrations: Path
    serve: Callable[[S, Stop], Awaitable[None]]
    commands: Mapping[str, Callable[[S], Coroutine[Any, Any, int]]] = field(default_factory=dict)
    parameters: Callable[[S], Mapping[str, str]] = lambda _: {}


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
    build.announce(service.name)
    try:
        status = _run(service, command, settings)
    except KeyboardInterrupt:
        status = Exit.INTERRUPTED
    except Unavailable as error:
        log.error("command.failed", command=command, detail=explain(error))  # noqa: TRY400 - expected, needs no trace
        status = Exit.FAILED
    except Exception as error:
        log.exception("process.crashed", command=command, detail=repr(error))
        status = Exit.CRASHED
    raise SystemExit(status)


def _plug_standard_descriptors() -> None:
    """Open closed standard descriptors. Otherwise a connection would get the number and receive the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free


def _run(service: Service[S], command: str, settings: Any) -> int:
    if command == "migrate":
        return _migrate(service, settings)
    if command in service.commands:
        return uvloop.run(service.commands[command](settings))
    with tracing(service.name, build.VERSION, settings):
        return uvloop.run(_serve(service, settings, Stop(settings.stop_delay)))


def _migrate(service: Service[S], settings: Any) -> Exit:
    from shared.postgres import migrations  # noqa: PLC0415 - its libraries are a tenth of a service's start

    # Python's own handler would let the driver cancel the statement. A commit that waits for a standby would stop
    # waiting, and others would see what no standby has. Nothing is lost: a migration can be killed at any time.
    signal.signal(signal.SIGINT, lambda *_: os._exit(Exit.INTERRUPTED))
    try:
        url, parameters = settings.current_database_url(), service.parameters(settings)
        applied = migrations.migrate(url, service.schema, service.migrations, parameters)
    except Exception as error:
        if migrations.is_transient(error):
            detail = f"{type(error).__name__}: {error}"
            log.error("schema.migration_failed", schema=service.schema, detail=detail)  # noqa: TRY400 - expected, needs no trace
            return Exit.FAILED
        log.exception("schema.migration_failed", schema=service.schema, detail=repr(error))
        return Exit.NOT_MIGRATED
    log.info("schema.migrated", schema=service.schema, applied=applied)
    return Exit.DONE


async def _serve(service: Service[S], settings: Any, stop: Stop) -> Exit:
    essentials.on_death = stop.set
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.request)
    loop.add_signal_handler(signal.SIGINT, stop.set)  # somebody waits at a terminal
    for number, level in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, settings.log_level)):
        loop.add_signal_handler(number, logs.change_level, level)
    # Objects of the start live as long as the process, so later collections skip them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    late = asyncio.create_task(_bound_stop(stop))
    try:
        await service.serve(settings, stop)
    finally:
        late.cancel()
    log.info("process.stopped")
    return _stopped(Exit.DONE)


def _stopped(status: Exit) -> Exit:
    """Return the status of a stop: TASK_DIED if a dead task caused it, otherwise `status`."""
    return Exit.TASK_DIED if essentials.dead else status


async def _bound_stop(stop: asyncio.Event) -> None:
    """End the process if its graceful stop hangs, for example on a database. Nothing is lost: running work is
    recovered as after a crash."""
    await stop.wait()
    await asyncio.sleep(STOP_MAX_SECONDS)
    log.error("process.stop_overdue", seconds=STOP_MAX_SECONDS)
    os._exit(_stopped(Exit.STOPPED_LATE))
