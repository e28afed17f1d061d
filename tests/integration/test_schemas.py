"""Each service's schema.sql equals the result of its migrations."""

from collections.abc import Callable, Mapping

import psycopg
import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.schema_dump import VERSION, dump_schema, dump_services, schema_file, server_version
from tests.infrastructure.services import SCHEMAS


@pytest.fixture(scope="module")
def migrated(database: Database) -> Mapping[str, str]:
    """Return the schemas that the migrations create, by service."""
    return dump_services(database)


@pytest.fixture(scope="module")
def loaded(create_database: Callable[..., Database]) -> Mapping[str, str]:
    """Return the schemas that the checked-in files create, by service."""
    database = create_database()
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("SET check_function_bodies = off")  # functions come before the tables that they use
        for service, schema in SCHEMAS.items():
            connection.execute(f"DROP SCHEMA {schema}")
            connection.execute(schema_file(service).read_text())
    return {service: dump_schema(database.url, schema) for service, schema in SCHEMAS.items()}


@pytest.mark.parametrize("service", SCHEMAS)
def test_schema_file_makes_what_the_migrations_make(
    migrated: Mapping[str, str], loaded: Mapping[str, str], service: str
) -> None:
    assert loaded[service] == migrated[service], "make schema-sql"


@pytest.mark.parametrize("service", SCHEMAS)
def test_schema_file_is_as_generated(database: Database, migrated: Mapping[str, str], service: str) -> None:
    if server_version(database.url) != VERSION:
        pytest.skip(f"the files are as Postgres {VERSION} writes them")
    assert schema_file(service).read_text() == migrated[service], "make schema-sql"
