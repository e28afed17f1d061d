"""A commit that waits for a standby: nobody may see it before a standby has it, whatever its caller does."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest

from deploy.consumer import runtime as consumer
from deploy.consumer.settings import ConsumerSettings
from services.balance.settings import Settings
from shared.postgres import connecting
from shared.postgres.connections import Connection, Pool, Session, connected
from shared.process.exits import Exit
from shared.refusals import Unavailable
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, wait_until

NOTICED_SECONDS = 10
GIVES_UP_SECONDS = 1.0
START_SECONDS = 30
Lend = Callable[[Settings], AbstractAsyncContextManager[Connection]]


@pytest.fixture(scope="module")
def alone(reaper: Reaper) -> Iterator[str]:
    """The address of a primary whose only standby is missing: commits wait for it."""
    url = start_binaries(system_binaries() or packaged_binaries(), reaper)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE written (id int)")
        db.execute("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        db.execute("SELECT pg_reload_conf()")
    yield url
    assert state(url)[1] == 0, "a wait ended later"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("ALTER SYSTEM RESET synchronous_standby_names")
        db.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def by_session(settings: Settings) -> AsyncIterator[Connection]:
    async with Session(settings, "test") as session, session.statement() as connection:
        yield connection


@asynccontextmanager
async def by_session_transaction(settings: Settings) -> AsyncIterator[Connection]:
    async with Session(settings, "test") as session, session.transaction() as connection:
        yield connection


@asynccontextmanager
async def by_pool(settings: Settings) -> AsyncIterator[Connection]:
    async with Pool(settings, "test") as pool, pool.connection() as connection:
        yield connection


@asynccontextmanager
async def by_pool_transaction(settings: Settings) -> AsyncIterator[Connection]:
    async with Pool(settings, "test") as pool, pool.transaction() as connection:
        yield connection


@asynccontextmanager
async def by_connected(settings: Settings) -> AsyncIterator[Connection]:
    async with connected(settings, "test") as connection:
        yield connection


@asynccontextmanager
async def by_connected_of_a_caller_that_cleans_up(settings: Settings) -> AsyncIterator[Connection]:
    """As a shard's publisher: before the connection gets the error, a producer is closed, which takes time."""
    async with connected(settings, "test") as connection:
        try:
            yield connection
        finally:
            await asyncio.to_thread(state, settings.current_database_url())


@asynccontextmanager
async def by_pool_of_a_caller_that_cleans_up(settings: Settings) -> AsyncIterator[Connection]:
    async with by_pool(settings) as connection:
        try:
            yield connection
        finally:
            await asyncio.to_thread(state, settings.current_database_url())


@asynccontextmanager
async def by_consumer(settings: Settings) -> AsyncIterator[Connection]:
    async with consumer.Pool(consumers(settings)) as pool, pool.connection() as connection:
        yield connection


@asynccontextmanager
async def by_consumer_transaction(settings: Settings) -> AsyncIterator[Connection]:
    async with consumer.Pool(consumers(settings)) as pool, pool.transaction() as connection:
        yield connection


def consumers(settings: Settings) -> ConsumerSettings:
    """Return settings of a consumer with the same database."""
    return ConsumerSettings(database_url=settings.current_database_url(), kafka_bootstrap_servers="127.0.0.1:1")


def state(url: str) -> tuple[int, int]:
    """Return how many backends wait for a standby, and how many rows are seen."""
    with psycopg.connect(url) as db:
        row = db.execute("""
            SELECT (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'), (SELECT count(*) FROM written)
        """).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.mark.parametrize(
    "lend",
    [
        *(by_session, by_session_transaction, by_pool, by_pool_transaction, by_pool_of_a_caller_that_cleans_up),
        *(by_connected, by_connected_of_a_caller_that_cleans_up, by_consumer, by_consumer_transaction),
    ],
)
@pytest.mark.parametrize("gives_up", ["by-cancellation", "by-the-driver"])
async def test_commit_without_a_standby_is_not_seen_after_its_caller_gave_up(
    alone: str, lend: Lend, gives_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"by-cancellation": (GIVES_UP_SECONDS, 60.0), "by-the-driver": (60.0, GIVES_UP_SECONDS)}
    limit_seconds, driver_seconds = limits[gives_up]
    monkeypatch.setattr(connecting, "COMMAND_TIMEOUT_SECONDS", driver_seconds)
    monkeypatch.setattr(consumer, "COMMAND_SECONDS", driver_seconds)
    before = state(alone)

    async def write() -> None:
        async with asyncio.timeout(limit_seconds), lend(Settings(database_url=alone, pool_size=1)) as connection:
            await connection.execute("INSERT INTO written VALUES (1)")

    with pytest.raises(TimeoutError if gives_up == "by-cancellation" else (Unavailable, consumer.Unavailable)):
        await write()
    # A cancelled wait ends: its row is seen, and other sessions would acknowledge what no standby has.
    wait_until(lambda: state(alone) != before, NOTICED_SECONDS, "the commit")
    assert state(alone) == (before[0] + 1, before[1])


async def test_commit_without_a_standby_is_not_seen_after_its_session_was_closed(alone: str) -> None:
    before = state(alone)

    async def write(session: Session) -> None:
        async with session.statement() as connection:
            await connection.execute("INSERT INTO written VALUES (1)")

    async with Session(Settings(database_url=alone), "test") as session:
        writing = asyncio.create_task(write(session))

        async def began() -> bool:
            return await asyncio.to_thread(state, alone) != before

        await eventually(began, NOTICED_SECONDS, "the commit")
    with pytest.raises(Unavailable):
        await writing
    assert await asyncio.to_thread(state, alone) == (before[0] + 1, before[1])


def test_migration_without_a_standby_is_not_seen_after_ctrl_c(alone: str) -> None:
    before = state(alone)
    environment = {**os.environ, "BALANCE_DATABASE_URL": alone}
    command = [sys.executable, "-m", "services.balance", "migrate"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: state(alone) != before, START_SECONDS, "the commit")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=NOTICED_SECONDS)
        finally:
            process.kill()
    assert process.returncode == Exit.INTERRUPTED, output
    assert state(alone) == (before[0] + 1, before[1])
    with psycopg.connect(alone) as db:
        assert db.execute("SELECT FROM pg_namespace WHERE nspname = 'balances'").fetchone() is None
