"""Migrations are applied once, completely or not at all, despite interruptions and races."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

from shared.postgres.migrations import migrate
from shared.process.exits import Exit
from shared.refusals import Unavailable
from tests.infrastructure.databases import Database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two migrations; the first can't be applied twice."""
    (tmp_path / "0001.first.sql").write_text("CREATE TABLE things.first (id int);")
    (tmp_path / "0002.second.sql").write_text("-- depends: 0001.first\nCREATE TABLE things.second (id int);")
    return tmp_path


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'things'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows if "yoyo" not in row["tablename"]}


async def test_a_migration_that_is_cut_off_before_it_is_marked_is_undone_and_applied_again(
    create_database: Callable[..., Database], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_database(roles=False).url
    with monkeypatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(PostgresqlPsycopgBackend, "mark_one", killed)
        with pytest.raises(KeyboardInterrupt):
            await asyncio.to_thread(migrate, url, "things", folder)
    assert await tables(url) == set()
    assert migrate(url, "things", folder) == ["0001.first", "0002.second"]
    assert await tables(url) == {"first", "second"}


async def test_replicas_that_migrate_concurrently_apply_each_migration_once(
    create_database: Callable[..., Database], folder: Path
) -> None:
    url = create_database(roles=False).url
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, url, "things", folder) for _ in range(4)))
    assert sorted(name for names in applied for name in names) == ["0001.first", "0002.second"]


async def test_idle_session_timeout_does_not_end_the_lock_of_a_long_migration(
    create_database: Callable[..., Database], tmp_path: Path
) -> None:
    url = create_database(roles=False).url
    (tmp_path / "0001.first.sql").write_text("CREATE TABLE things.first (id int); SELECT pg_sleep(0.5);")
    with psycopg.connect(url, autocommit=True) as db:
        change = sql.SQL("ALTER DATABASE {} SET idle_session_timeout = '100ms'")
        db.execute(change.format(sql.Identifier(db.info.dbname)))
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, url, "things", tmp_path) for _ in range(3)))
    assert sorted(applied) == [[], [], ["0001.first"]]


async def test_migrations_of_an_older_version_leave_a_newer_schema_alone(
    create_database: Callable[..., Database], folder: Path
) -> None:
    url = create_database(roles=False).url
    (folder / "post-apply.sql").write_text("CREATE TABLE things.rights (id int);")
    second = folder / "0002.second.sql"
    with capture_logs() as logs:
        await asyncio.to_thread(migrate, url, "things", folder)
    assert logs == []
    (folder / "post-apply.sql").write_text("CREATE TABLE things.older ();")
    second.unlink()
    with capture_logs() as logs:
        assert migrate(url, "things", folder) == []
    assert logs == [{"event": "schema.newer", "log_level": "warning", "schema": "things", "unknown": 1}]
    assert await tables(url) == {"first", "second", "rights"}


async def test_a_migration_needs_a_server_that_takes_writes(
    create_database: Callable[..., Database], folder: Path
) -> None:
    url = create_database(roles=False).url
    with psycopg.connect(url, autocommit=True) as db:
        change = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
        db.execute(change.format(sql.Identifier(db.info.dbname)))
    with pytest.raises(Unavailable, match="session is read-only"):
        migrate(url, "things", folder)


MIGRATE = """
from pathlib import Path

from shared.process.main import Service, main
from shared.process.settings import ServiceSettings


class Settings(ServiceSettings):
    port: int = 1


main(Service("things", Settings, "things", Path("{folder}"), None))
"""


def migrated(url: str, folder: Path) -> tuple[int, str]:
    """Migrate in a separate process; return its exit status and output."""
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE.format(folder=folder), "migrate"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_migration_has_exit_statuses_for_done_for_operators_errors_and_for_a_bug(
    create_database: Callable[..., Database], folder: Path
) -> None:
    database = create_database()
    status, output = migrated(database.as_role("order_service"), folder)  # this role may not create that schema
    assert (status, "Traceback" in output or '"exception"' in output) == (Exit.FAILED, False)
    assert "InsufficientPrivilege" in output
    assert migrated(database.url, folder)[0] == Exit.DONE
    (folder / "0003.third.sql").write_text("-- depends: 0002.second\nCREATE TABEL things.third (id int);")
    status, output = migrated(database.url, folder)
    assert (status, '"event":"schema.migration_failed"' in output) == (Exit.NOT_MIGRATED, True)
