"""A database with the tables of all services and of the reference consumer, made by the migrators."""

from collections.abc import Callable

import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.everything import migrate_everything


@pytest.fixture(scope="module")
def migrated(create_database: Callable[..., Database]) -> Database:
    """Return a database in which each migrator has migrated its schema."""
    database: Database = create_database()
    migrate_everything(database)
    return database
