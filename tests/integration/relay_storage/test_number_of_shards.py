"""The number of the relay's shards is set while a database is new, recorded in it, and never changed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from services.order.settings import Settings
from shared.postgres.migrations import migrate
from shared.process.exits import Exit
from tests.infrastructure.databases import Database
from tests.infrastructure.pipeline import Event, order_in
from tests.infrastructure.services import SCHEMAS, SERVICES_FOLDER
from tests.integration.relay_storage.outbox import connected

SHARDS = 16
ADDED = ("0002b.relay_shards.sql", "0009.oldest_of_all_shards.sql", "0009.more_shards.sql")
EXPRESSIONS = """
    SELECT attrelid::regclass::text, pg_get_expr(adbin, adrelid) FROM pg_attribute
    JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attname = 'shard' AND attrelid::regclass::text LIKE 'orders.outbox%' ORDER BY 1
"""
FILES = """
    SELECT oid::regclass::text, pg_relation_filenode(oid), relnatts FROM pg_class
    WHERE oid::regclass::text LIKE 'orders.outbox%' AND relkind IN ('r', 'i') ORDER BY 1
"""


class Deployment:
    """A database that is migrated by the services' own migrators, or by a superuser without roles."""

    def __init__(self, database: Database, folder: Path, *, roles: bool = True) -> None:
        self.database, self._folder, self._roles = database, folder, roles

    def migrate(self, service: str, shards: int | None = None, *, without: Callable[[str], bool] | None = None) -> None:
        """Migrate a service's schema with that setting; `without`: which migrations there are not yet."""
        folder = self._folder / service
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SERVICES_FOLDER / service / "migrations", folder)
        for path in folder.iterdir():
            if without is not None and without(path.name):
                path.unlink()
        url = self.database.as_role(f"{service}_migrator") if self._roles else self.database.url
        settings = Settings(database_url=url, relay_shards=shards)
        migrate(url, SCHEMAS[service], folder, settings.migration_parameters if service == "order" else {})

    def read(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database.url) as connection:
            return connection.execute(query).fetchall()

    def numbers(self) -> Mapping[str, object]:
        """Return the number of shards in each place that has it."""
        rows = self.read("SELECT to_regclass('relay.shards') IS NOT NULL")
        return {
            "record": self.read("SELECT shards FROM orders.relay_shards")[0][0],
            "expressions": {str(row[1]) for row in self.read(EXPRESSIONS)},
            "rows": self.read("SELECT count(*) FROM relay.shards")[0][0] if rows == [(True,)] else None,
        }


def all_have(shards: int) -> dict[str, object]:
    rule = "& 3" if shards == 4 else f"% {shards}"
    expression = f"((get_byte(uuid_send(order_id), 15) {rule}))::smallint"
    return {"record": shards, "expressions": {expression}, "rows": shards}


@pytest.fixture(params=[True, False], ids=["a role each", "one superuser"])
def anew(request: pytest.FixtureRequest, create_database: Callable[..., Database], tmp_path: Path) -> Deployment:
    """Return a deployment with an empty database."""
    return Deployment(create_database(roles=request.param), tmp_path, roles=request.param)


@pytest.fixture
def deployment(create_database: Callable[..., Database], tmp_path: Path) -> Deployment:
    return Deployment(create_database(), tmp_path)


@pytest.mark.parametrize("shards", [None, 4, SHARDS])
def test_new_database_has_the_chosen_number_everywhere_and_keeps_it(anew: Deployment, shards: int | None) -> None:
    anew.migrate("order", shards)
    anew.migrate("relay")
    assert anew.numbers() == all_have(shards or 4)
    for same in (None, shards):
        anew.migrate("order", same)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=f"SHARDS is 8, but this database has {shards or 4}"):
        anew.migrate("order", 8)
    anew.migrate("order")
    assert anew.numbers() == all_have(shards or 4)


async def test_events_of_every_shard_are_claimed_and_counted_in_later_partitions_too(deployment: Deployment) -> None:
    deployment.migrate("order", SHARDS)
    deployment.migrate("relay")
    database = deployment.database
    roles = {role: database.as_role(f"{role}_service") for role in ("relay", "order")}
    async with connected(database.url, **roles) as outbox:
        for _ in range(3):
            await outbox.write(*(Event(order_in(shard, SHARDS), 1) for shard in range(SHARDS)))
            await outbox.rotate()
        assert await outbox.partitions() == [0, 1, 2, 3]
        oldest = "SELECT orders.oldest_unpublished_seconds() > 0"
        for shard in range(SHARDS):
            assert await outbox.order.fetchval(oldest)
            assert await outbox.publish(shard) == 3
        assert not await outbox.order.fetchval(oldest)


@pytest.mark.parametrize(
    ("services", "shards"),
    [(("order", "relay"), None), (("order", "relay"), 4), (("order", "relay"), SHARDS), (("order",), SHARDS)],
    ids=["not set", "set to four", "set to more", "set to more, without a relay"],
)
def test_database_of_an_earlier_version_keeps_four_shards_and_is_not_rewritten(
    deployment: Deployment, services: tuple[str, ...], shards: int | None
) -> None:
    for service in services:
        # The rights of that version did not name the record.
        deployment.migrate(service, without=lambda name: name in (*ADDED, "post-apply.sql"))
    before = deployment.read(FILES)
    if shards == SHARDS:
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="this database has 4"):
            deployment.migrate("order", shards)
    else:
        deployment.migrate("order", shards)
    deployment.migrate("order")
    deployment.migrate("relay")
    assert deployment.numbers() == all_have(4)
    assert deployment.read(FILES) == before


def test_relay_that_was_migrated_first_has_four_shards_and_so_has_the_outbox(deployment: Deployment) -> None:
    deployment.migrate("relay")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="this database has 4"):
        deployment.migrate("order", SHARDS)
    deployment.migrate("order")
    assert deployment.numbers() == all_have(4)


def test_relay_may_be_migrated_before_the_order_service_has_granted_all_rights(deployment: Deployment) -> None:
    deployment.migrate("order", SHARDS, without=lambda name: name == "post-apply.sql")
    deployment.migrate("relay")
    deployment.migrate("order")
    assert deployment.numbers() == all_have(SHARDS)


def test_migrate_refuses_another_number_with_a_message_and_no_trace(database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.order", "migrate"],
        env={**os.environ, "ORDER_DATABASE_URL": database.as_role("order_migrator"), "ORDER_RELAY_SHARDS": "16"},
        cwd=SERVICES_FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == Exit.FAILED, output
    assert "ORDER_RELAY_SHARDS is 16, but this database has 4 shards, which can not be changed" in output
    assert "Traceback" not in output


def test_first_migration_that_was_cut_off_before_the_number_was_recorded_is_repeated(deployment: Deployment) -> None:
    deployment.migrate("order", SHARDS, without=lambda name: not name.startswith(("0001.", "0002.")))
    deployment.migrate("order", SHARDS)
    deployment.migrate("relay")
    assert deployment.numbers() == all_have(SHARDS)
