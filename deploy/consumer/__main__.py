"""Puts the parts together, and is the command line: `python -m consumer --help` lists the commands."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from enum import IntEnum

import asyncpg
import structlog

from . import baseline, intake, runtime, settings, store
from .api import Api
from .completeness import Completeness
from .events import parse_timestamp
from .reader import Reader
from .relay import open_relays
from .runtime import LogWriter, Pool, Unavailable, check_clock, repeat
from .settings import ConsumerSettings
from .stopping import Stop
from .tracing import exported
from .watermarks import Watermarks

log = structlog.get_logger()

GAPS_SECONDS = 0.5  # how soon a missing event is asked for
MEASURE_SECONDS = 5.0
PRUNE_SECONDS = 600.0
PRUNE_EVENTS = 5000  # in one statement, so that none takes long
LEASE_SECONDS = 30.0  # longer than a round takes, unless much is missing
RETRIED_MAX = 10_000
STOP_MAX_SECONDS = 8.0  # supervisors commonly kill after ten


class Exit(IntEnum):
    """Why the process has ended."""

    DONE = 0
    FAILED = 1  # a command was refused, or the consumer needs something that is unreachable
    MISCONFIGURED = 2
    STOPPED_LATE = 10
    TASK_DIED = 11
    CRASHED = 12  # a bug
    NOT_MIGRATED = 13  # a bug in a migration
    CANNOT_LISTEN = 15
    INTERRUPTED = 130


class Leader:
    """Runs work in one process at a time, by a lease. Two concurrent processes would do no harm, only double work."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._taking: set[asyncio.Task[bool]] = set()

    async def run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` if this process has, or can take, the leadership of that name. Raises Unavailable."""
        taking = asyncio.create_task(self._take(name))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        # A cancellation does not end it: the server may have the statement already, and execute it after `leave`.
        if await asyncio.shield(taking):
            await work()

    async def leave(self) -> None:
        """End all leaderships, so that another process takes them over immediately. `run` must not be called again."""
        await asyncio.gather(*self._taking, return_exceptions=True)
        with suppress(Unavailable):
            async with self._pool.connection() as db:
                await store.leave_leadership(db, self._holder)

    async def _take(self, name: str) -> bool:
        async with self._pool.connection() as db:
            return bool(await store.take_leadership(db, name, self._holder, LEASE_SECONDS))


async def serve(settings: ConsumerSettings, stop: Stop) -> None:
    """Consume until `stop` is set. Raises OSError if the port can't be used, an ExceptionGroup if a task died."""
    async with (
        Pool(settings) as pool,
        Pool(settings, size=1) as probes,  # so that reads that use all other connections don't make it unready
        open_relays(settings) as relays,
        Reader(settings, pool) as reader,
    ):
        completeness = Completeness(settings, pool, relays)
        watermarks = Watermarks(settings, pool, relays, reader.announced)
        leader = Leader(pool)

        async def database() -> None:
            async with probes.connection() as db:
                await store.check_queries(db)

        async def clock() -> None:
            async with probes.connection() as db:
                await check_clock(db)

        async def prune() -> None:
            async with pool.connection() as db:
                await check_clock(db)  # deleting can't be undone
                while await store.prune(db, settings.keep_hours * 3600, PRUNE_EVENTS):
                    pass

        loops: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "reader": (0, reader.read),
            "watermarks": (settings.check_interval_seconds, watermarks.follow),
            "gaps": (GAPS_SECONDS, lambda: leader.run("gaps", completeness.ask)),
            "completeness": (
                settings.check_interval_seconds,
                lambda: leader.run("completeness", completeness.check),
            ),
            "prune": (PRUNE_SECONDS, lambda: leader.run("prune", prune)),
            "measures": (MEASURE_SECONDS, completeness.measure),
        }
        checks = {"database": database, "clock": clock, "reader": reader.check}
        async with Api(settings, pool, checks, stop).serving(), asyncio.TaskGroup() as tasks:
            started = {name: tasks.create_task(repeat(name, *loop, stop), name=name) for name, loop in loops.items()}
            for task in started.values():
                task.add_done_callback(lambda _: stop.set())  # it has died
            await stop.wait()
            for name in started.keys() - {"reader"}:
                started[name].cancel()  # comparing may take minutes; the reader completes its batch
        await leader.leave()


async def _serve(settings: ConsumerSettings, log_writer: LogWriter) -> Exit:
    stop = Stop(settings.stop_delay_seconds)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.request)
    loop.add_signal_handler(signal.SIGINT, stop.set)  # somebody waits at a terminal
    status = Exit.DONE

    async def end_late() -> None:
        """End the process if its stop hangs. Nothing is lost: all of it can be repeated, as after a crash."""
        await stop.wait()
        await asyncio.sleep(STOP_MAX_SECONDS)
        log.error("process.stop_overdue", seconds=STOP_MAX_SECONDS)
        log_writer.flush()
        os._exit(Exit.STOPPED_LATE)

    late = asyncio.create_task(end_late())
    try:
        await serve(settings, stop)
    except OSError as error:
        sys.stderr.write(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
        return Exit.CANNOT_LISTEN
    except BaseExceptionGroup as group:
        log.critical("task.died", exc_info=group)
        status = Exit.TASK_DIED
    finally:
        late.cancel()
    log.info("process.stopped")
    return status


async def migrate(settings: ConsumerSettings) -> Exit:
    """Apply the migrations that are missing."""
    log.info("schema.migrated", applied=await store.migrate(settings))
    return Exit.DONE


async def retry(settings: ConsumerSettings) -> Exit:
    """Try to read dead letters again, and have withdrawn events compared again.

    The command fails if some dead letters still can't be read.
    """
    async with Pool(settings) as pool:
        async with pool.connection() as db:
            await store.doubt_forged(db)
        resolved, left = await intake.retry_dead_letters(pool, RETRIED_MAX)
    log.info("dead_letters.retried", resolved=resolved, left=left)
    return Exit.FAILED if left else Exit.DONE


async def declare_baseline(settings: ConsumerSettings, since: datetime, topic: str | None = None) -> Exit:
    """Take the history of a topic's relay from `since` on as new, because its order database was restored."""
    try:
        await baseline.declare(settings, since, topic)
    except baseline.Refused as refused:
        log.error("command.failed", command="baseline", detail=str(refused))  # noqa: TRY400 - expected
        return Exit.FAILED
    return Exit.DONE


async def _run(arguments: argparse.Namespace, settings: ConsumerSettings, log_writer: LogWriter) -> Exit:
    try:
        # Within no time, the driver only reads the address.
        await asyncpg.connect(settings.current_database_url(), timeout=0)
    except ValueError as error:
        sys.stderr.write(f"setting CONSUMER_DATABASE_URL: {error}\n")
        return Exit.MISCONFIGURED
    except (OSError, asyncpg.InterfaceError):
        pass
    if arguments.command == "serve":
        return await _serve(settings, log_writer)
    if arguments.command == "baseline":
        return await declare_baseline(settings, arguments.since, arguments.topic)
    return await (migrate if arguments.command == "migrate" else retry)(settings)


def _timestamp(text: str) -> datetime:
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def main() -> None:
    """Run a command, and exit with its status."""
    for descriptor in range(3):
        # A closed one would become the number of a connection, and the log would be written to the connection.
        with suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)
    parser = argparse.ArgumentParser(prog="python -m consumer", description="A consumer of the order topic.")
    commands = ["serve", "migrate", "retry", "baseline"]
    help_ = "consume (the default), create or update the tables, try to read dead letters again, or begin anew"
    help_ += " from a time to which the order database was restored"
    parser.add_argument("command", nargs="?", choices=commands, default="serve", help=help_)
    parser.add_argument("--since", type=_timestamp, metavar="TIME", help="for baseline: like 2026-01-31T09:30:00Z")
    parser.add_argument("--topic", help="for baseline, if there are several: whose order database was restored")
    arguments = parser.parse_args()
    command = arguments.command
    if (command == "baseline") != (arguments.since is not None):
        parser.error("baseline needs --since, and no other command takes it")
    if command != "baseline" and arguments.topic is not None:
        parser.error("only baseline takes --topic")
    chosen = settings.load()
    log_writer = runtime.configure_log(chosen.log_level, chosen.log_format)
    try:
        with exported():
            status = asyncio.run(_run(arguments, chosen, log_writer))
    except KeyboardInterrupt:
        status = Exit.INTERRUPTED
    except Unavailable as error:
        log.error("command.failed", command=command, detail=str(error))  # noqa: TRY400 - expected, needs no trace
        status = Exit.FAILED
    except Exception:
        log.exception("process.crashed", command=command)
        status = Exit.NOT_MIGRATED if command == "migrate" else Exit.CRASHED
    log_writer.flush()
    raise SystemExit(status)


if __name__ == "__main__":
    main()
