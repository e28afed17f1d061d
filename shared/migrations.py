"""Applies a service's migrations: plain SQL files, run by yoyo, one process at a time."""

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from yoyo import get_backend, read_migrations


def migrate(database_url: str, schema: str, folder: Path) -> list[str]:
    """Bring `schema` up to the newest migration in `folder` and return the names of those applied.

    The schema is created when it is missing (the role needs CREATE on the database only then). A session
    lock serialises replicas that start together; it ends with its connection, so a killed migration blocks
    nobody, and yoyo's own lock row, which a kill would leave behind, is cleared under it.
    """
    with psycopg.connect(database_url, autocommit=True) as lock:
        lock.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"migrate {schema}",))
        exists = lock.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        if exists is None:
            lock.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        backend = get_backend(_yoyo_url(database_url, schema))
        try:
            backend.break_lock()
            pending = backend.to_apply(read_migrations(str(folder)))
            with backend.lock():
                backend.apply_migrations(pending)
            return [migration.id for migration in pending]
        finally:
            backend.connection.close()


def _yoyo_url(database_url: str, schema: str) -> str:
    parts = urlsplit(database_url)
    query = urlencode([*parse_qsl(parts.query), ("schema", schema)])
    return urlunsplit(("postgresql+psycopg", parts.netloc, parts.path, query, ""))
