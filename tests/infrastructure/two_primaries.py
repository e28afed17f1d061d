"""A primary and its synchronous standby, which a test promotes while the primary still runs: a split view.

`old` is the address of the former primary, `new` of the promoted standby; both are a superuser's. `old_first` and
`new_first` have both hosts, as the services' addresses do: each leads to its first host while that one takes writes.
"""

from contextlib import AbstractContextManager
from typing import Any

import psycopg

from tests.infrastructure.databases import Database, create_roles
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.postgres import paused
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS, migrate_service
from tests.infrastructure.waiting import wait_until

STANDBY = "standby"
MISSING = "missing"  # a standby that never comes
SECONDS = 20
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE %s"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"


class TwoPrimaries:
    """The two servers, with the tables of all services."""

    def __init__(self, reaper: Reaper) -> None:
        self._primary = OwnPostgres(reaper)
        self._primary.start()
        self._primary.wait()
        create_roles(self.old.url)
        for name in SCHEMAS:
            migrate_service(name, Database(self.old.url))
        self._standby = OwnPostgres(
            reaper, copy_of=self.old.url, settings=[f"cluster_name={STANDBY}", "synchronous_standby_names="]
        )
        self._standby.start()
        self._acknowledge(STANDBY, "sync")

    @property
    def old(self) -> Database:
        """Return the former primary."""
        return Database(self._primary.url, migrated=True)

    @property
    def former_port(self) -> int:
        """Return the port of the former primary."""
        return self._primary.port

    @property
    def new(self) -> Database:
        """Return the promoted standby."""
        return Database(self._standby.url, migrated=True)

    @property
    def old_first(self) -> Database:
        """Return both, the former primary first."""
        return self._both(self._primary, self._standby)

    @property
    def new_first(self) -> Database:
        """Return both, the new primary first."""
        return self._both(self._standby, self._primary)

    def stop_acknowledging(self) -> None:
        """Let commits of the primary wait from now on, though the standby gets them: their acknowledgement is lost."""
        self._acknowledge(MISSING, "async")

    def until_replicated(self) -> None:
        """Return when the standby has all that the primary has written."""
        with psycopg.connect(self.old.url, autocommit=True) as db:
            written = _one(db.execute("SELECT pg_current_wal_lsn()"))
        with psycopg.connect(self.new.url, autocommit=True) as db:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_until(lambda: _one(db.execute(replayed, [written])), SECONDS, "replication")

    def promote(self) -> None:
        """Make the standby a primary. It no longer follows the former one, whose commits wait for ever."""
        with psycopg.connect(self.new.url, autocommit=True) as db:
            assert _one(db.execute(f"SELECT pg_promote(true, {SECONDS})"))

    def paused(self) -> AbstractContextManager[None]:
        """Pause the former primary while the body runs."""
        return paused(self.old.url)

    def commits_waiting(self, application: str = "%") -> int:
        """Return how many commits of the former primary wait for a standby. `application`: whose; LIKE's pattern."""
        with psycopg.connect(self.old.url, autocommit=True) as db:
            return int(_one(db.execute(WAITS, [application])))

    def sessions(self, application: str) -> int:
        """Return how many sessions an application has, or had and left waiting, at the former primary."""
        with psycopg.connect(self.old.url, autocommit=True) as db:
            return int(_one(db.execute(SESSIONS, [application])))

    def stop_former(self, mode: str = "fast") -> None:
        """Stop the former primary and end its sessions, as Patroni does once it answers again.

        It uses `immediate` if it finds a new primary, and `fast` if it can't reach etcd.
        """
        self._primary.stop(mode)

    def _acknowledge(self, standby: str, then: str) -> None:
        """Let commits wait for that standby. The one there is then counts as `then`."""
        state = "SELECT sync_state FROM pg_stat_replication"
        with psycopg.connect(self.old.url, autocommit=True) as db:
            db.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
            db.execute("SELECT pg_reload_conf()")
            wait_until(lambda: db.execute(state).fetchone() == (then,), SECONDS, f"a standby that is {then}")

    def stop(self) -> None:
        """Stop what runs, to leave the machine to others."""
        for server in (self._primary, self._standby):
            if server.runs:
                server.stop("immediate")

    @staticmethod
    def _both(first: OwnPostgres, second: OwnPostgres) -> Database:
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        return Database(f"postgresql://postgres@{hosts}/postgres", migrated=True)


def _one(cursor: Any) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row[0]
