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
PREFIXES = ["order", "product", "coupon", "balance", "relay", "platform"]
RUNTIME_ROLES = [*(f"{prefix}_service" for prefix in PREFIXES[:-1]), "platform_consumer"]
LOGINS = [
    *(f"{prefix}_migrator" for prefix in PREFIXES),
    *(f"{role}_{suffix}" for role in RUNTIME_ROLES for suffix in "ab"),
    *("services_reader", "services_monitor"),
]
PASSWORD = "secret"


@dataclass(frozen=True, slots=True)
class Database:
    """A database of this server; `url` is a superuser's. `migrated`: whether it has the tables of all services."""

    url: str
    migrated: bool = False

    def as_role(self, role: str) -> str:
        """Return the address with a service's own role, as in a deployment; a runtime role stands for its login."""
        login = f"{role}_a" if role in RUNTIME_ROLES else role
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{login}:{PASSWORD}@{place}").geturl()


def create_roles(url: str) -> None:
    """Create the deployment's roles and schemas, with the deployment's own file."""
    passwords = {f"{role.upper()}_PASSWORD": PASSWORD for role in LOGINS}
    command = [str(packaged_binaries() / "psql"), url, "--no-psqlrc", "--quiet", "--file", str(ROLES_SQL)]
    subprocess.run(command, env=os.environ | passwords, check=True)


# Rights on a database itself are not copied with it.
RIGHTS = """
    SELECT format('REVOKE ALL ON DATABASE %%I FROM PUBLIC', %(copy)s::text)
    UNION ALL
    SELECT format('GRANT CONNECT ON DATABASE %%I TO %%s', %(copy)s::text, string_agg(grantee::regrole::text, ', '))
    FROM pg_database, aclexplode(datacl)
    WHERE datname = %(template)s AND grantee::regrole::text <> current_user AND privilege_type = 'CONNECT'
"""


@contextmanager
def fresh_database(server_url: str, *, roles: bool = True, template: Database | None = None) -> Iterator[Database]:
    """Create an empty database and drop it afterwards; by default with roles and their schemas.

    With a `template`, to which nothing may be connected, the database is its copy.
    """
    source = "template0" if template is None else urlsplit(template.url).path[1:]
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source))
        )
        if template is not None:
            for (statement,) in connection.execute(RIGHTS, {"copy": name, "template": source}).fetchall():
                connection.execute(statement)
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    database = Database(url, migrated=template is not None and template.migrated)
    try:
        if roles and template is None:
            create_roles(database.url)
        yield database
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
