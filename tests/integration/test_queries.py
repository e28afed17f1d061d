"""Every query fits the migrated schema; migrations can be repeated, concurrently and with any owner."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from shared.postgres.migrations import migrate
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, SERVICES_FOLDER, migrate_service, queries_of

# The order service is migrated first, because the relay uses its outbox.
MIGRATED = [name for name in SCHEMAS if (SERVICES_FOLDER / name / "migrations").is_dir()]
QUERIES = [(service, name) for service in MIGRATED for name in queries_of(service)]


@pytest.fixture(scope="module")
def urls(database: Database) -> dict[str, str]:
    """Return the address of each service's migrated schema, with its own role."""
    return {service: migrate_service(service, database) for service in MIGRATED}


@pytest.mark.parametrize(("service", "name"), QUERIES, ids=str)
async def test_a_query_can_be_prepared(urls: dict[str, str], service: str, name: str) -> None:
    connection = await asyncpg.connect(urls[service])
    try:
        await connection.prepare(queries_of(service)[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("service", MIGRATED)
def test_migrations_run_again_change_nothing(urls: dict[str, str], database: Database, service: str) -> None:
    folder = SERVICES_FOLDER / service / "migrations"
    assert urls
    assert migrate(database.as_role(f"{service}_migrator"), SCHEMAS[service], folder) == []


@pytest.mark.parametrize("service", ["product", "coupon", "balance"])
def test_replicas_that_migrate_concurrently_make_the_schema_once(
    create_database: Callable[..., Database], service: str
) -> None:
    url = create_database(roles=False).url
    files = sorted(path.stem for path in (SERVICES_FOLDER / service / "migrations").glob("0*.sql"))
    with ThreadPoolExecutor(4) as replicas:
        folder = SERVICES_FOLDER / service / "migrations"
        applied = list(replicas.map(lambda _: migrate(url, SCHEMAS[service], folder), range(4)))
    assert sorted(applied) == [[], [], [], files]
