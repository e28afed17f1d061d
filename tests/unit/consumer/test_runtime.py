"""What the reference consumer runs on: a log that never waits, loops that survive, addresses of several hosts."""

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from deploy.consumer import runtime
from deploy.consumer.runtime import (
    LINES_MAX,
    LOST_LINES,
    SKEW_MAX_SECONDS,
    LogHandler,
    LogWriter,
    Pool,
    Unavailable,
    addresses,
    check_clock,
    repeat,
)
from deploy.consumer.settings import ConsumerSettings


def lost() -> float:
    return float(LOST_LINES._value.get())


def test_log_whose_reader_hangs_drops_lines_and_never_waits() -> None:
    reader, writer = os.pipe()
    log, before = LogWriter(writer), lost()
    for _ in range(LINES_MAX + 2000):
        log.write("x" * 100)
    log.flush(0.01)
    assert lost() > before
    os.close(reader)  # the thread is rid of what waits
    log.flush(20)
    os.close(writer)


def test_log_whose_reader_is_gone_loses_lines_only() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log, before = LogWriter(writer), lost()
    log.write("x")
    log.flush(20)
    assert lost() == before + 1
    os.close(writer)


def test_log_writes_lines_in_order() -> None:
    reader, writer = os.pipe()
    log = LogWriter(writer)
    log.write("one")
    log.write("two \ud800")
    log.flush(20)
    assert os.read(reader, 100) == b"one\ntwo \\ud800\n"
    os.close(writer)
    os.close(reader)


def test_library_record_that_cannot_be_rendered_stops_no_logging() -> None:
    LogHandler().emit(logging.LogRecord("library", logging.ERROR, "x.py", 1, "%d left", ("none",), None))


async def test_loop_goes_on_after_any_failure_until_it_is_stopped() -> None:
    stop, failures = asyncio.Event(), [Unavailable("away"), RuntimeError("a bug"), asyncio.CancelledError()]

    async def work() -> None:
        if failures:
            raise failures.pop(0)
        stop.set()

    await asyncio.wait_for(repeat("test", 0.0, work, stop), 20)


async def test_failures_of_a_loop_are_logged_once_until_they_change_or_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "BACKOFF_SECONDS", 0.0)
    away, bug = Unavailable("away"), RuntimeError("a bug")
    with capture_logs() as logs:
        await asyncio.wait_for(failing(away, away, bug, away, bug), 20)
    assert [(entry["event"], entry.get("detail")) for entry in logs] == [
        ("loop.round_failed", repr(away)),
        ("loop.round_failed", repr(bug)),
        ("loop.recovered", None),
    ]


async def test_pauses_of_a_failing_loop_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "BACKOFF_SECONDS", 60.0)
    monkeypatch.setattr(runtime, "PAUSE_MAX_SECONDS", 0.001)
    await asyncio.wait_for(failing(Unavailable("away"), Unavailable("away")), 3)


async def failing(*failures: Exception) -> None:
    """Run a loop whose rounds fail like this, one after the other, until one does not."""
    stop, left = asyncio.Event(), list(failures)

    async def work() -> None:
        if left:
            raise left.pop(0)
        asyncio.get_running_loop().call_soon(stop.set)  # after this round has ended

    await repeat("test", 0.0, work, stop)


async def test_cancelled_loop_ends() -> None:
    task = asyncio.create_task(repeat("test", 60.0, asyncio.Event().wait, asyncio.Event()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.cancelled()


class Opened(asyncpg.Connection):
    """Stands in for a connection of the driver, to a server that takes writes or not."""

    def __init__(self, *, writable: bool) -> None:
        self.writable = writable
        self.terminated = False

    def __del__(self) -> None: ...

    async def execute(self, *_: Any, **__: Any) -> str:
        return ""

    async def fetchval(self, *_: Any, **__: Any) -> str:
        return "off" if self.writable else "on"

    async def set_type_codec(self, *_: Any, **__: Any) -> None: ...

    def terminate(self) -> None:
        self.terminated = True


async def test_of_several_hosts_the_first_that_takes_writes_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    standby, primary = Opened(writable=False), Opened(writable=True)

    async def connect(address: str, **_: Any) -> Opened:
        if "silent" in address:
            await asyncio.Event().wait()
        return standby if "standby" in address else primary

    monkeypatch.setattr(asyncpg, "connect", connect)
    monkeypatch.setattr(runtime, "NEXT_HOST_SECONDS", 0.01)
    url = "postgresql://silent,standby,primary/db"
    settings = ConsumerSettings.model_validate({"database_url": url, "kafka_bootstrap_servers": "nowhere:1"})
    assert await asyncio.wait_for(Pool(settings)._connect(), 2) is primary
    assert standby.terminated


class Hanging:
    """Stands in for the driver's pool, whose server does not answer."""

    def __init__(self) -> None:
        self.terminated = False

    async def close(self) -> None:
        await asyncio.Event().wait()

    def terminate(self) -> None:
        self.terminated = True


async def test_server_that_hangs_does_not_delay_the_end_of_its_pool() -> None:
    hanging: Any = Hanging()
    given = {"database_url": "postgresql://nowhere", "kafka_bootstrap_servers": "nowhere:1", "shutdown_seconds": 0.01}
    pool = Pool(ConsumerSettings.model_validate(given))
    pool._pool = hanging
    await asyncio.wait_for(pool.__aexit__(), 2)
    assert hanging.terminated


def test_address_of_several_hosts_is_one_address_for_each() -> None:
    one = "postgresql://me:a%2Cb@h:1/db?sslmode=disable"
    assert addresses(one) == [one]
    assert addresses("postgresql://me:pw@h1:1,h2/db?sslmode=disable") == [
        "postgresql://me:pw@h1:1/db?sslmode=disable",
        "postgresql://me:pw@h2/db?sslmode=disable",
    ]


@pytest.mark.parametrize("seconds", [-SKEW_MAX_SECONDS + 5, SKEW_MAX_SECONDS - 5])
async def test_clocks_that_differ_by_less_than_the_bound_agree(seconds: float) -> None:
    await check_clock(database_ahead_by(seconds))


@pytest.mark.parametrize(("seconds", "text"), [(7200.0, "7200 s behind"), (-7200.0, "7200 s ahead of")])
async def test_clocks_that_differ_by_more_disagree_with_the_direction_named(seconds: float, text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        await check_clock(database_ahead_by(seconds))


def database_ahead_by(seconds: float) -> Any:
    """Return a connection to a server whose clock is ahead of this host's."""

    class Server:
        async def fetchval(self, _: str) -> datetime:
            return datetime.now(UTC) + timedelta(seconds=seconds)

    return Server()
