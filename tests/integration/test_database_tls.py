"""A real Postgres over TLS: a service verifies the server, logs in by certificate, and says what doesn't fit."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode, urlsplit

import psycopg
import pytest

from shared.postgres.migrations import migrate
from shared.refusals import Unavailable
from tests.infrastructure.authority import Authority
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import SETTINGS, packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SERVICES_FOLDER, Client, serving
from tests.infrastructure.waiting import eventually

HEAL_SECONDS = 10
ROLE = "by_certificate"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that lets services in by certificate only. `database` is a superuser's, who needs no TLS."""

    database: Database
    authority: Authority
    folder: Path

    def url(self, host: str = "localhost", **changes: str | None) -> str:
        """Return the balance service's address; a parameter that is changed to None is left out."""
        certificate, key = self.authority.issue("client", [], subject=ROLE)
        given = {"sslmode": "verify-full", "sslrootcert": str(self.authority.file), "sslcert": certificate}
        given |= {"sslkey": key}
        parameters = {name: value for name, value in {**given, **changes}.items() if value is not None}
        parts = urlsplit(self.database.url)
        return f"postgresql://{ROLE}@{host}:{parts.port}{parts.path}?{urlencode(parameters)}"

    def close_connections(self) -> None:
        """Close every connection of the service."""
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [ROLE])


@pytest.fixture(scope="module")
def server(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    certificate, key = authority.issue("server", ["localhost"])
    with TemporaryDirectory(prefix="pgtls") as place:
        own = Path(place)
        for source in (certificate, key, str(authority.file)):
            shutil.copy(source, own)
        if os.geteuid() == 0:  # the server runs as nobody then
            for path in (own, *own.iterdir()):
                shutil.chown(path, "nobody")
        (own / "server.key").chmod(0o600)
        files = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "ssl_ca_file": authority.file.name}
        settings = [*SETTINGS, "ssl=on", *(f"{name}={own / file}" for name, file in files.items())]
        url = start_binaries(system_binaries() or packaged_binaries(), reaper, settings)
        with psycopg.connect(url, autocommit=True) as connection:
            rules = "('host all postgres 127.0.0.1/32 trust'), ('hostssl all all 127.0.0.1/32 cert')"
            connection.execute(f"COPY (VALUES {rules}) TO PROGRAM 'cat > pg_hba.conf'")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")  # rights are not the point here
        with fresh_database(url) as database:
            yield Server(database, authority, folder)


def migrated(url: str) -> None:
    """Apply the balance service's migrations."""
    migrate(url, "balances", SERVICES_FOLDER / "balance" / "migrations")


async def reason(client: Client) -> str:
    """Return the answer of the readiness check of the database."""
    return str((await client.call("GET", "/readyz")).body["checks"]["database"])


async def test_service_verifies_the_server_and_logs_in_by_certificate(server: Server) -> None:
    url = server.url()
    await asyncio.to_thread(migrated, url)
    async with serving("balance", url) as client:
        await client.post("/v1/accounts/anna/charges", {"amount": 1})
        assert await reason(client) == "ok"


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("host", "127.0.0.1"),
        ("authority", "certificate verify failed"),
        ("no certificate", "certificate"),
        ("no TLS", "no encryption|SSL off"),
    ],
)
async def test_server_or_client_that_does_not_fit_is_named(
    server: Server, tmp_path: Path, wrong: str, expected: str
) -> None:
    url = {
        "host": lambda: server.url("127.0.0.1"),
        "authority": lambda: server.url(sslrootcert=str(Authority(tmp_path, "stranger").file)),
        "no certificate": lambda: server.url(sslcert=None, sslkey=None),
        "no TLS": lambda: server.url(sslmode="disable"),
    }[wrong]()
    with pytest.raises(Unavailable) as refused:
        await asyncio.to_thread(migrated, url)
    assert re.search(expected, str(refused.value))
    async with serving("balance", url) as client:
        found = await reason(client)
        assert re.search(expected, found), found
        assert (await client.call("GET", "/v1/accounts/anna")).status == 503


async def test_replaced_authorities_count_from_the_next_connection(server: Server) -> None:
    url = server.url()
    await asyncio.to_thread(migrated, url)
    async with serving("balance", url) as client:
        assert await reason(client) == "ok"
        trusted = server.authority.file.read_bytes()
        server.authority.file.write_bytes(Authority(server.folder, "successor").file.read_bytes())
        server.close_connections()

        async def distrusts() -> bool:
            return "certificate verify failed" in await reason(client)

        async def ready() -> bool:
            return await reason(client) == "ok"

        await eventually(distrusts, HEAL_SECONDS, "the reason")
        server.authority.file.write_bytes(trusted)
        await eventually(ready, HEAL_SECONDS, "readiness")
