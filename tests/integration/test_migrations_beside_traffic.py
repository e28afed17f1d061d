"""A migration that waits for a lock gives it up in time, and does not stall the sessions that wait behind it."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from shared.postgres import migrations
from shared.postgres.migrations import is_transient, migrate
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SERVICES_FOLDER
from tests.infrastructure.waiting import wait_until

ORDER = SERVICES_FOLDER / "order" / "migrations"
# A migration waits for a lock for half a second, and a write then still has to be done on a busy machine.
STALL_MAX_SECONDS = 2.0


@pytest.fixture
def url(create_database: Callable[..., Database]) -> str:
    return create_database(roles=False).url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a table's migration, and one that takes the strongest lock of the table."""
    (tmp_path / "0001.first.sql").write_text("CREATE TABLE things.first (id int);")
    (tmp_path / "0002.second.sql").write_text(
        "-- A column.\n-- depends: 0001.first\nALTER TABLE things.first ADD COLUMN more text;"
    )
    return tmp_path


@contextmanager
def writing(url: str, table: str, insert: str) -> Iterator[list[float]]:
    """Let a session insert until the body ends; yield the seconds of each insert. Each waits for five at the most."""
    seconds: list[float] = []
    end = threading.Event()

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("SET lock_timeout = '5s'")
            while not end.is_set():
                began = time.monotonic()
                db.execute(insert)
                seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=write, name=f"writer of {table}")
    thread.start()
    try:
        wait_until(lambda: bool(seconds) or not thread.is_alive(), 10, "the first insert")
        yield seconds
    finally:
        end.set()
        thread.join()


def waiting(url: str) -> bool:
    """Return whether a session waits for a lock of another one."""
    with psycopg.connect(url, autocommit=True) as db:
        return db.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").fetchone() == (True,)


def test_migration_gives_up_in_time_while_a_lock_is_held_and_others_go_on(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TRIES", 3)
    assert migrate(url, "things", folder)[:1] == ["0001.first"]
    (folder / "0003.third.sql").write_text("-- depends: 0002.second\nALTER TABLE things.first ADD COLUMN third text;")
    insert = "INSERT INTO things.first VALUES (1)"
    with psycopg.connect(url) as holder, writing(url, "first", insert) as seconds, capture_logs() as logs:
        holder.execute(insert)  # until the transaction ends, it keeps a lock of the table
        before = len(seconds)
        with pytest.raises(psycopg.errors.LockNotAvailable) as error:
            migrate(url, "things", folder)
        assert is_transient(error.value)
        assert len(seconds) > before + 3
        assert max(seconds) < STALL_MAX_SECONDS
        holder.rollback()
    told = [(line["event"], line["migration"], line["attempt"]) for line in logs]
    assert told == [("migration.lock_missed", "0003.third", attempt) for attempt in (1, 2)]
    assert migrate(url, "things", folder) == ["0003.third"]


async def test_migration_that_gets_its_lock_at_a_later_try_succeeds(url: str, folder: Path) -> None:
    (folder / "0002.second.sql").rename(folder / "kept")
    await asyncio.to_thread(migrate, url, "things", folder)
    (folder / "kept").rename(folder / "0002.second.sql")
    with psycopg.connect(url) as holder, capture_logs() as logs:
        holder.execute("INSERT INTO things.first VALUES (1)")
        migrating = asyncio.create_task(asyncio.to_thread(migrate, url, "things", folder))
        await asyncio.to_thread(wait_until, lambda: bool(logs), 20, "the first missed lock")
        holder.rollback()
        assert await migrating == ["0002.second"]


def test_statement_of_a_migration_that_takes_too_long_is_ended(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "STATEMENT_TIMEOUT", "200ms")
    slow = folder / "0003.third.sql"
    slow.write_text("-- depends: 0002.second\nSELECT pg_sleep(0.4);")
    with pytest.raises(psycopg.errors.QueryCanceled):
        migrate(url, "things", folder)
    slow.write_text("-- Slow.\n-- depends: 0002.second\n-- statement_timeout: 10s\n\nSELECT pg_sleep(0.4);")
    assert migrate(url, "things", folder) == ["0003.third"]


def test_limits_of_the_role_do_not_replace_those_of_migrations(url: str, folder: Path) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = 0', current_database()); END $$")
    (folder / "0003.third.sql").write_text(
        "-- depends: 0002.second\nCREATE TABLE things.limits AS SELECT name, setting FROM pg_settings"
        " WHERE name IN ('lock_timeout', 'statement_timeout');"
    )
    migrate(url, "things", folder)
    with psycopg.connect(url) as db:
        assert dict(db.execute("SELECT * FROM things.limits").fetchall()) == {
            "lock_timeout": "500",
            "statement_timeout": "10000",
        }


def test_statement_outside_a_transaction_that_does_nothing_is_a_bug(url: str, folder: Path) -> None:
    (folder / "0003.third.sql").write_text("-- depends: 0002.second\n-- transactional: false\nSELECT 'SELECT 1';")
    with pytest.raises(RuntimeError, match=r"0003\.third"):
        migrate(url, "things", folder)


def until(folder: Path, last: str) -> Path:
    """Copy the order service's migrations up to the one of that number; the next call adds more."""
    for path in sorted(ORDER.glob("0*.sql")):
        if path.name.partition(".")[0] <= last:
            shutil.copy(path, folder)
    return folder


INSERT = """
INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload)
VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'order.paid.v1', '{}')
"""
INDEXES = """
SELECT index.relname, indisvalid FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
WHERE index.relname LIKE 'outbox%occurred%' ORDER BY 1
"""
EXPECTED = [("outbox_0_occurred_at_idx", True), ("outbox_1_occurred_at_idx", True), ("outbox_occurred", True)]


async def test_index_of_a_partitioned_table_is_made_beside_traffic_and_after_a_kill(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate, url, "orders", until(tmp_path, "0008"))
    until(tmp_path, "0009")
    with psycopg.connect(url) as old, writing(url, "outbox", INSERT) as seconds:
        old.execute(INSERT)  # building the index waits for this transaction
        migrating = asyncio.create_task(asyncio.to_thread(migrate, url, "orders", tmp_path))
        await asyncio.sleep(0)
        with psycopg.connect(url, autocommit=True) as db:

            def builds() -> bool:
                building = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for %'"
                return db.execute(building).fetchone() is not None

            await asyncio.to_thread(wait_until, builds, 60, "the index to be built")
            before = len(seconds)
            await asyncio.to_thread(wait_until, lambda: len(seconds) > before + 20, 10, "inserts beside the index")
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
            with pytest.raises(psycopg.OperationalError):
                await migrating
            assert ("outbox_0_occurred_at_idx", False) in db.execute(INDEXES).fetchall()
            old.rollback()
            assert (await asyncio.to_thread(migrate, url, "orders", tmp_path))[0].startswith("0008b")
            assert db.execute(INDEXES).fetchall() == EXPECTED
    assert max(seconds) < STALL_MAX_SECONDS


async def test_replicas_that_make_an_index_concurrently_do_not_wait_for_one_another(url: str) -> None:
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, url, "orders", ORDER) for _ in range(3)))
    assert sorted(map(len, applied))[:2] == [0, 0]
    with psycopg.connect(url) as db:
        assert db.execute(INDEXES).fetchall() == EXPECTED
