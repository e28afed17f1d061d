"""Every query fits the schema that the migrations make; migrations can be run again, at once and as any owner."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from shared.migrations import migrate
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, SERVICES_FOLDER, migrate_service, queries_of

# The relay works on the outbox, which is the order service's: that one is migrated first.
MIGRATED = [name for name in SCHEMAS if (SERVICES_FOLDER / name / "migrations").is_dir()]
QUERIES = [(service, name) for service in MIGRATED for name in queries_of(service)]


@pytest.fixture(scope="module")
def urls(database: Database) -> dict[str, str]:
    """The address of each service's migrated schema, as its own role."""
    return {service: migrate_service(service, database) for service in MIGRATED}


@pytest.mark.parametrize(("service", "name"), QUERIES, ids=str)
async def test_a_query_can_be_prepared(urls: dict[str, str], service: str, name: str) -> None:
    connection = await asyncpg.connect(urls[service])
    try:
        await connection.prepare(queries_of(service)[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("service", MIGRATED)
def test_migrations_run_again_change_nothing(urls: dict[str, str], service: str) -> None:
    assert migrate(urls[service], SCHEMAS[service], SERVICES_FOLDER / service / "migrations") == []


@pytest.mark.parametrize("service", ["product", "coupon", "balance"])
def test_replicas_that_migrate_at_once_make_the_schema_once(
    create_database: Callable[..., Database], service: str
) -> None:
    url = create_database(roles=False).url
    files = sorted(path.stem for path in (SERVICES_FOLDER / service / "migrations").glob("*.sql"))
    with ThreadPoolExecutor(4) as replicas:
        folder = SERVICES_FOLDER / service / "migrations"
        applied = list(replicas.map(lambda _: migrate(url, SCHEMAS[service], folder), range(4)))
    assert sorted(applied) == [[], [], [], files]
