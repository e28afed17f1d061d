"""Applies a service's migrations: plain SQL files, run by yoyo, one process at a time."""

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from yoyo import get_backend, read_migrations
from yoyo.backends import DatabaseBackend
from yoyo.migrations import Migration


def migrate(database_url: str, schema: str, folder: Path) -> list[str]:
    """Bring `schema` up to the newest migration in `folder` and return the names of those applied.

    The schema is created when it is missing (the role needs CREATE on the database only then). A session
    lock serialises replicas that start together; it ends with its connection, so a killed migration blocks
    nobody, and yoyo's own lock row, which a kill would leave behind, is neither taken nor minded.
    """
    with psycopg.connect(database_url, autocommit=True) as lock:
        lock.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"migrate {schema}",))
        exists = lock.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        if exists is None:
            lock.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        backend = get_backend(_yoyo_url(database_url, schema))
        try:
            pending = backend.to_apply(read_migrations(str(folder)))
            for migration in pending:
                _apply(backend, migration)
            return [migration.id for migration in pending]
        finally:
            backend.connection.close()


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


def _yoyo_url(database_url: str, schema: str) -> str:
    parts = urlsplit(database_url)
    query = urlencode([*parse_qsl(parts.query), ("schema", schema)])
    return urlunsplit(("postgresql+psycopg", parts.netloc, parts.path, query, ""))
