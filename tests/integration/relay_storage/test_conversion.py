"""An outbox in use is converted to partitions: no event is lost, and older processes continue."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psycopg
import pytest

from services.relay import store
from shared.postgres import migrations
from shared.postgres.migrations import migrate
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import INSERT, Event, order_in
from tests.infrastructure.services import SERVICES_FOLDER
from tests.integration.relay_storage.outbox import LEASE_SECONDS, SHARD, Outbox, connected, ids, ids_of

OWNERS = {"order": ("orders", "order_service"), "relay": ("relay", "relay_service")}
BEFORE = {"order": "0004", "relay": "0002"}
CAME_WITH = {"0002b.relay_shards.sql": "0009"}  # its name says where it belongs, not when it was written
# Statements that processes of the previous version have prepared.
OLD_TAKE = """
    UPDATE relay.shards SET epoch = epoch + 1, holder = 'old', lease_expires_at = now() + interval '1 hour'
    WHERE shard = $1::smallint RETURNING epoch
"""
CYCLE = store.SQL["cycle"]


class Deployment:
    """A database that is migrated step by step, with a role per service or one role for all."""

    def __init__(self, database: Database, folder: Path, *, roles: bool) -> None:
        self._database, self._folder, self._roles = database, folder, roles

    def url(self, service: str) -> str:
        """Return the service's address."""
        return self._database.as_role(OWNERS[service][1]) if self._roles else self._database.url

    def migrate(self, service: str, last: str = "9") -> None:
        """Apply the service's migrations up to those that begin with `last`."""
        folder = self._folder / service
        folder.mkdir(exist_ok=True)
        for path in (SERVICES_FOLDER / service / "migrations").glob("*.sql"):
            if CAME_WITH.get(path.name, path.name)[: len(last)] <= last:
                shutil.copy(path, folder)
        schema, role = OWNERS[service]
        if not self._roles:
            migrate(self._database.url, schema, folder)
            return
        migrate(self._database.as_role(f"{service}_migrator"), schema, folder)
        with psycopg.connect(self._database.url) as root:  # what a role of that time could do, as the owner
            root.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
            root.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}")
            root.execute(f"GRANT USAGE ON SCHEMA {schema} TO relay_owner")
            root.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO relay_owner")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Outbox]:
        """Open connections with the roles of both services."""
        urls = {"relay": self.url("relay"), "order": self.url("order")}
        async with connected(self._database.url, **urls) as outbox:
            yield outbox


@pytest.fixture(params=[True, False], ids=["a role each", "one superuser"])
def deployment(request: pytest.FixtureRequest, create_database: Callable[..., Database], tmp_path: Path) -> Deployment:
    """Return a deployment of the previous version."""
    deployment = Deployment(create_database(roles=request.param), tmp_path, roles=request.param)
    for service, last in BEFORE.items():
        deployment.migrate(service, last)
    return deployment


async def test_events_from_before_the_conversion_are_published(deployment: Deployment) -> None:
    sent, pending, parked, later = (Event(order_in(SHARD), 1) for _ in range(4))
    async with deployment.connected() as outbox:
        await outbox.write(sent, pending, parked)
        set_status = (
            "UPDATE orders.outbox SET status = $2, sent_at = $3, parked_at = $4, parked_reason = $5 WHERE event_id = $1"
        )
        now = await outbox.root.fetchval("SELECT now()")
        await outbox.root.execute(set_status, sent.event_id, "SENT", now, None, None)
        await outbox.root.execute(set_status, parked.event_id, "PARKED", None, now, "too large")
        before = await outbox.root.fetch("SELECT * FROM orders.outbox ORDER BY outbox_id")
    for service in BEFORE:
        deployment.migrate(service)
    async with deployment.connected() as outbox:
        assert await outbox.root.fetch("SELECT * FROM orders.outbox ORDER BY outbox_id") == before
        assert await outbox.write(later) == [4]
        assert ids(await outbox.cycle()) == ids_of(pending, later)
        await outbox.cycle()
        assert await outbox.statuses() == [(0, "SENT"), (0, "SENT"), (0, "PARKED"), (0, "SENT")]
        assert await outbox.rotate() == 1


async def test_processes_of_the_previous_version_work_at_each_migration_step(deployment: Deployment) -> None:
    steps = [
        ("order", "0005."),
        ("order", "0005b"),
        ("order", "0005c"),
        ("order", "9"),
        ("relay", "0003"),
        ("relay", "9"),
    ]
    async with deployment.connected() as old:
        insert, take = await old.order.prepare(INSERT), await old.relay.prepare(OLD_TAKE)
        cycle = await old.relay.prepare(CYCLE)
        epoch, number, written, published = await take.fetchval(SHARD), 0, [], []
        for step in [None, *steps]:
            if step is not None:
                deployment.migrate(*step)
            for _ in range(2):
                event = Event(order_in(SHARD), 1)
                written.append(event)
                await insert.fetchval(event.event_id, event.order_id, 1, "order.paid.v1", event.payload, None)
                claimed = await cycle.fetch(SHARD, epoch, number, LEASE_SECONDS, 100, 1 << 20, True)
                number += bool(claimed)
                published += [row["event_id"] for row in claimed]
        assert published == ids_of(*written)


async def test_a_relay_that_is_newer_than_the_order_service_publishes(deployment: Deployment) -> None:
    deployment.migrate("relay")
    event = Event(order_in(SHARD), 1)
    async with deployment.connected() as outbox:
        await outbox.write(event)
        assert ids(await outbox.cycle()) == ids_of(event)
        with pytest.raises(asyncpg.UndefinedFunctionError):  # the cleaner logs this and waits
            await store.rotate_outbox(outbox.relay, 0)


async def test_conversion_fails_instead_of_blocking_checkouts(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TRIES", 2)
    deployment.migrate("order", "0005b")
    async with deployment.connected() as outbox:
        async with outbox.root.transaction():
            await outbox.root.execute("SELECT FROM orders.outbox LIMIT 1")
            with pytest.raises(Exception, match="lock timeout"):
                deployment.migrate("order")
        await outbox.write(Event(order_in(SHARD), 1))
        deployment.migrate("order")
        assert await outbox.partitions() == [0, 1]
