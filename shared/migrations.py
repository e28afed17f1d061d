"""Applies a service's migrations: plain SQL files, run by yoyo, one process at a time."""

from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from yoyo import read_migrations
from yoyo.backends import DatabaseBackend
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from shared import database_url, sqlstates
from shared.connecting import ENCODING, SESSION_SETTINGS, WrongEncoding
from shared.refusals import Unavailable

CONNECT_TIMEOUT_SECONDS = 10  # of each host


def migrate(url: str, schema: str, folder: Path) -> list[str]:
    """Bring `schema` up to the newest migration in `folder` and return the names of those applied.

    The schema is created when it is missing (the role needs CREATE on the database only then). A session
    lock serialises replicas that start together; it ends with its connection, so a killed migration blocks
    nobody, and yoyo's own lock row, which a kill would leave behind, is neither taken nor minded.
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
    with connection as lock:
        encoding = lock.info.parameter_status("server_encoding")
        if encoding != ENCODING:
            raise WrongEncoding(str(encoding))
        _set_up(lock)
        lock.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"migrate {schema}",))
        exists = lock.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        if exists is None:
            lock.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        # By keywords: of a URL yoyo reads one host and no more.
        address = DatabaseURI("postgresql", None, None, None, None, None, {**options, "schema": schema})
        backend = _Backend(address, default_migration_table)
        try:
            backend.init_database()
            pending = backend.to_apply(read_migrations(str(folder)))
            for migration in pending:
                _apply(backend, migration)
            return [migration.id for migration in pending]
        finally:
            backend.connection.close()


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc] # untyped
    """yoyo's, with the settings of our sessions."""

    def init_connection(self, connection: psycopg.Connection) -> None:
        """Make a connection ready for use."""
        super().init_connection(connection)
        _set_up(connection)


def _set_up(connection: psycopg.Connection) -> None:
    # The lock's connection idles while a migration takes its time. If the server ended it, others would migrate too.
    for name, value in SESSION_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))


def is_transient(error: Exception) -> bool:
    """Return whether a migration failed by what passes or an operator mends, so that it may be run again."""
    if not isinstance(error, psycopg.Error):
        return isinstance(error, Unavailable | OSError)
    if error.sqlstate is None:  # the driver's own: the connection
        return isinstance(error, psycopg.OperationalError)
    return sqlstates.is_transient(error.sqlstate, error.diag.severity_nonlocalized)


def _apply(backend: DatabaseBackend, migration: Migration) -> None:
    """Apply and mark a migration in one transaction: yoyo alone would mark it in a second one, and a kill between
    the two would leave a migration that can neither be repeated nor passed over."""
    backend.ensure_internal_schema_updated()
    migration.load()
    if not migration.use_transactions:  # CREATE INDEX CONCURRENTLY and its like
        backend.apply_one(migration)
        return
    with backend.transaction():
        migration.process_steps(backend, "apply")
        backend.mark_one(migration, log=False)
