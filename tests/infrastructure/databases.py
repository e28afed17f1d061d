"""Fresh databases in the test run's server, with the roles and schemas of a deployment."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.infrastructure.postgres import packaged_binaries

ROLES_SQL = Path(__file__).parents[2] / "deploy" / "sql" / "roles.sql"
ROLES = ["order_service", "product_service", "coupon_service", "balance_service", "relay_service", "platform_consumer"]
PASSWORD = "secret"


@dataclass(frozen=True, slots=True)
class Database:
    """A database of this server; `url` is a superuser's."""

    url: str

    def as_role(self, role: str) -> str:
        """The address with a service's own role, as the service gets it in a deployment."""
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{role}:{PASSWORD}@{place}").geturl()


def create_roles(url: str) -> None:
    """The deployment's roles and schemas, by the file that a deployment uses and the psql that is always here."""
    passwords = {f"{role.upper()}_PASSWORD": PASSWORD for role in ROLES}
    command = [str(packaged_binaries() / "psql"), url, "--no-psqlrc", "--quiet", "--file", str(ROLES_SQL)]
    subprocess.run(command, env=os.environ | passwords, check=True)


@contextmanager
def fresh_database(server_url: str, *, roles: bool = True) -> Iterator[Database]:
    """A new empty database, dropped afterwards; with roles and their schemas unless told otherwise."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    database = Database(urlsplit(server_url)._replace(path=f"/{name}").geturl())
    try:
        if roles:
            create_roles(database.url)
        yield database
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
