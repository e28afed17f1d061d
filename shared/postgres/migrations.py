"""Applies a service's migrations: plain SQL files, run by yoyo, one process at a time."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
import structlog
from psycopg import sql
from yoyo import read_migrations
from yoyo.backends import DatabaseBackend
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from shared.postgres import database_url, sqlstates
from shared.postgres.connecting import ENCODING, SESSION_SETTINGS, WrongEncoding
from shared.refusals import Unavailable

log = structlog.get_logger()

CONNECT_TIMEOUT_SECONDS = 10  # of each host
ALONE_POLL_SECONDS = 0.1
LOCK_TIMEOUT = "500ms"  # while a migration waits for a lock, other sessions wait behind it
LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 1.0  # in which the sessions that waited behind it do their work
STATEMENT_TIMEOUT = "10s"  # a statement that holds a lock keeps other sessions waiting
# In a migration's header: a limit that it needs instead, such as `-- statement_timeout: 1h`.
_LIMIT = re.compile(r"^-- (lock_timeout|statement_timeout): (\w+)$", re.MULTILINE)
_HEADER = re.compile(r"\A(--.*\n)*")
NONE: Mapping[str, str] = MappingProxyType({})


def migrate(url: str, schema: str, folder: Path, parameters: Mapping[str, str] = NONE) -> list[str]:
    """Bring `schema` up to the newest migration in `folder`, grant its rights, and return the names of those applied.

    Rights are in `post-apply.sql`, yoyo's name for what runs after all migrations; it runs also if there were none. It
    does not run if a later version has migrated the schema, because that version may need more rights.
    `parameters`: what migrations read with current_setting(), by names such as orders.relay_shards.
    The schema is created when it is missing (the role needs CREATE on the database only then).
    Raises Unavailable when no server takes connections and writes, or the database's encoding is not UTF8.
    """
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        **database_url.parse(url).libpq_options(),
        "client_encoding": ENCODING,
    }
    try:
        connection = psycopg.connect(**options, autocommit=True)
    except psycopg.OperationalError as error:
        raise Unavailable(" ".join(str(error).split())) from error
    with connection as first:
        encoding = first.info.parameter_status("server_encoding")
        if encoding != ENCODING:
            raise WrongEncoding(str(encoding))
        _set_up(first)
        if first.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
            with suppress(psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema):  # another one was faster
                first.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        # As keywords, because yoyo reads only one host of a URL.
        address = DatabaseURI("postgresql", None, None, None, None, None, {**options, "schema": schema})
        backend = _Backend(address, default_migration_table)
        try:
            backend.init_database()
            for name, value in parameters.items():
                backend.connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            with _alone(first, schema, backend.lock_table):
                migrations = read_migrations(str(folder))
                pending = backend.to_apply(migrations)
                for migration in pending:
                    _apply(backend, migration)
                unknown = set(backend.get_applied_migration_hashes()) - {migration.hash for migration in migrations}
                if unknown:
                    log.warning("schema.newer", schema=schema, unknown=len(unknown))
                for rights in () if unknown else migrations.post_apply:
                    _apply(backend, rights, mark=False)
            return [migration.id for migration in pending]
        finally:
            backend.connection.close()


@contextmanager
def _alone(connection: psycopg.Connection, schema: str, table: str) -> Iterator[None]:
    """Wait until no other process migrates the schema, and let none begin before the body has ended.

    The lock is one of a table, because only its owner can take it: every role could hold an advisory lock, and block
    migrations. It ends with its connection, so a killed migration blocks nobody. yoyo's own lock is a row in the same
    table, which a kill would leave behind. The mode allows everything but a second lock of its kind.
    """
    # The transaction is idle during the migration, which may take longer than these limits.
    connection.execute(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN"
        " ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
    )
    # NOWAIT: CREATE INDEX CONCURRENTLY waits for every session that has a snapshot, as one has that waits for a lock.
    lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT").format(sql.Identifier(schema, table))
    alone = False
    while not alone:
        try:
            with connection.transaction():
                connection.execute(lock)
                alone = True
                yield
        except psycopg.errors.LockNotAvailable:
            if alone:
                raise
            time.sleep(ALONE_POLL_SECONDS)


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc] # untyped
    """yoyo's, with the settings of our sessions."""

    def init_connection(self, connection: psycopg.Connection) -> None:
        """Make a connection ready for use."""
        super().init_connection(connection)
        _set_up(connection)


def _set_up(connection: psycopg.Connection) -> None:
    # The lock's connection is idle during a migration. If the server closed it, other replicas would migrate too.
    for name, value in SESSION_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def is_transient(error: Exception) -> bool:
    """Return whether a migration failed for a transient reason, so that it may be run again."""
    if not isinstance(error, psycopg.Error):
        return isinstance(error, Unavailable | OSError)
    if error.sqlstate is None:  # the driver's own: the connection
        return isinstance(error, psycopg.OperationalError)
    return sqlstates.is_transient(error.sqlstate, error.diag.severity_nonlocalized)


def _apply(backend: DatabaseBackend, migration: Migration, *, mark: bool = True) -> None:
    """Apply a migration, and try again for a while if it does not get a lock."""
    backend.ensure_internal_schema_updated()
    migration.load()
    text = Path(migration.path).read_text()
    for attempt in count(1):
        _set_limits(backend.connection, text)
        try:
            if migration.use_transactions:
                _apply_in_transaction(backend, migration, mark)
            else:
                _apply_statements(backend, migration, text)
            return
        except psycopg.errors.LockNotAvailable as error:
            if attempt >= LOCK_TRIES:
                raise
            detail = str(error).partition("\n")[0]
            log.warning("migration.lock_missed", migration=migration.id, attempt=attempt, detail=detail)
            time.sleep(LOCK_PAUSE_SECONDS)


def _set_limits(connection: psycopg.Connection, text: str) -> None:
    header = _HEADER.match(text)
    assert header is not None
    limits = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": STATEMENT_TIMEOUT}
    for name, value in (limits | dict(_LIMIT.findall(header[0]))).items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def _apply_in_transaction(backend: DatabaseBackend, migration: Migration, mark: bool) -> None:
    """Apply and mark a migration in one transaction.

    yoyo alone would mark it in a second transaction. A kill between the two would leave a migration that can neither be
    repeated nor skipped.
    """
    with backend.transaction():
        migration.process_steps(backend, "apply")
        if mark:
            backend.mark_one(migration, log=False)


def _apply_statements(backend: DatabaseBackend, migration: Migration, query: str) -> None:
    """Run, outside a transaction, each statement that the migration's query returns, until it returns none.

    That is for CREATE INDEX CONCURRENTLY and its like. The query finds what is left to do. So a migration that was
    killed between two statements, or in one, continues there.
    """
    done: set[str] = set()
    while (row := backend.connection.execute(query).fetchone()) is not None:
        (statement,) = row
        if statement in done:
            raise RuntimeError(f"{migration.id}: its query returns this again after it was run: {statement}")
        backend.connection.execute(statement)
        done.add(statement)
    with backend.transaction():
        backend.mark_one(migration, log=False)
