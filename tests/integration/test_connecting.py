"""Connections are only made to a server that takes writes, stores UTF-8 and accepts the session settings."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import sql

from services.balance.settings import Settings
from services.relay.publishing.notifier import Notifier
from services.relay.settings import RelaySettings
from shared.postgres.connecting import ReadOnlyServer, connect
from shared.postgres.connections import Connection, Pool, Session
from shared.postgres.migrations import migrate
from shared.refusals import Unavailable
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.proxy import Proxy
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SERVICES_FOLDER, Client, migrate_service, serving
from tests.infrastructure.waiting import eventually, wait_until

MIGRATIONS = SERVICES_FOLDER / "balance" / "migrations"
HEAL_SECONDS = 5.0
WRITER = "-c default_transaction_read_only=off"  # for the session that makes the server writable again


def alter(url: str, *settings: tuple[str, str]) -> None:
    """Give new sessions in the database exactly these settings."""
    with psycopg.connect(url, autocommit=True, options=WRITER) as db:
        name = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
        for setting, value in settings:
            change = sql.SQL("ALTER DATABASE {} SET {} = {}")
            db.execute(change.format(name, sql.Identifier(setting), sql.Literal(value)))


@pytest.fixture
def own_database(create_database: Callable[..., Database]) -> Database:
    """Return a database whose settings a test may change."""
    return create_database()


class OldPrimary:
    """A separate server, which a test may make read-only for existing sessions, like a failover with a fence. Only a
    superuser uses it; `url` is its default database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def set_read_only(self, value: str) -> None:
        """Change the setting for every session, from its next statement on."""
        with psycopg.connect(self.url, autocommit=True, options=WRITER) as db:
            db.execute(sql.SQL("ALTER SYSTEM SET default_transaction_read_only = {}").format(sql.Literal(value)))
            db.execute("SELECT pg_reload_conf()")

        def changed() -> bool:
            with psycopg.connect(self.url) as db:
                return db.execute("SHOW default_transaction_read_only").fetchone() == (value,)

        wait_until(changed, HEAL_SECONDS, "the server's new configuration")


@pytest.fixture(scope="module")
def old_server(reaper: Reaper) -> OldPrimary:
    """Start a separate server."""
    return OldPrimary(start_binaries(system_binaries() or packaged_binaries(), reaper))


@pytest.fixture
def old_primary(old_server: OldPrimary) -> Iterator[OldPrimary]:
    """Return the server while it takes writes."""
    yield old_server
    old_server.set_read_only("off")


def place(url: str) -> tuple[str, int]:
    """Return the host and port of an address."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@asynccontextmanager
async def moving(old: OldPrimary, new: str) -> AsyncIterator[tuple[Settings, Callable[[], None]]]:
    """Return settings whose host name means the old server, and a function that makes it mean the new one."""
    async with Proxy(*place(old.url)) as name:
        url = urlsplit(new)
        url = url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{name.port}", path="/postgres")

        def move() -> None:
            old.set_read_only("on")
            name.lead_to(*place(new))

        yield Settings(database_url=url.geturl(), pool_size=2), move


async def server(connection: Connection) -> int:
    """Return the port of the server that answers."""
    return int(await connection.fetchval("SHOW port"))


async def charge(client: Client, user: str) -> int:
    """Charge a user's account; return the status."""
    return (await client.call("POST", f"/v1/accounts/{user}/charges", {"amount": 1})).status


async def test_a_service_that_connected_to_a_read_only_server_heals_when_it_takes_writes(
    own_database: Database,
) -> None:
    url = migrate_service("balance", own_database)
    alter(own_database.url, ("default_transaction_read_only", "on"))
    async with serving("balance", url) as client:
        assert {await charge(client, "reader") for _ in range(8)} == {503}
        assert (await client.call("GET", "/v1/accounts/reader")).status == 503
        ready = await client.call("GET", "/readyz")
        assert ready.status == 503
        assert "takes no writes" in ready.body["checks"]["database"]
        alter(own_database.url)

        async def charged() -> bool:
            return {await charge(client, "reader") for _ in range(8)} == {201}

        await eventually(charged, HEAL_SECONDS, "charges once the server takes writes")
        assert (await client.call("GET", "/readyz")).status == 200


async def test_reads_of_a_pool_leave_the_former_primary(old_primary: OldPrimary, postgres_url: str) -> None:
    async with moving(old_primary, postgres_url) as (settings, move), Pool(settings, "test") as pool:
        async with pool.connection() as one, pool.connection() as other:
            assert {await server(one), await server(other)} == {place(old_primary.url)[1]}
        move()

        async def moved() -> bool:
            async with pool.connection() as one, pool.connection() as other:
                return {await server(one), await server(other)} == {place(postgres_url)[1]}

        await eventually(moved, HEAL_SECONDS, "reads from the new primary")


async def test_reads_of_a_session_that_is_checked_leave_the_former_primary(
    old_primary: OldPrimary, postgres_url: str
) -> None:
    async with (
        moving(old_primary, postgres_url) as (settings, move),
        Session(settings, "test", checked=True) as session,
    ):
        async with session.statement() as connection:
            assert await server(connection) == place(old_primary.url)[1]
        move()

        async def moved() -> bool:
            with suppress(ReadOnlyServer):
                async with session.statement() as connection:
                    return await server(connection) == place(postgres_url)[1]
            return False

        await eventually(moved, HEAL_SECONDS, "reads from the new primary")


@pytest.mark.parametrize("owner", [Pool, Session])
async def test_a_write_that_a_former_primary_refuses_costs_its_connection(
    old_primary: OldPrimary, postgres_url: str, owner: type[Pool] | type[Session]
) -> None:
    async with moving(old_primary, postgres_url) as (settings, move), owner(settings, "test") as connections:
        async with connections.transaction() as connection:
            assert await server(connection) == place(old_primary.url)[1]
        move()
        with pytest.raises(Unavailable):
            async with connections.transaction() as connection:
                await connection.execute("CREATE TABLE IF NOT EXISTS written (id int)")
        async with connections.transaction() as connection:
            assert await server(connection) == place(postgres_url)[1]


async def test_session_notices_that_its_server_became_read_only(old_primary: OldPrimary) -> None:
    connection = await connect(Settings(database_url=old_primary.url), "test")
    try:
        assert not connection.turned_read_only
        old_primary.set_read_only("on")
        await connection.fetchval("SELECT 1")
        assert connection.turned_read_only
    finally:
        await connection.close()


async def test_of_several_hosts_the_one_that_takes_writes_is_taken(old_primary: OldPrimary, postgres_url: str) -> None:
    hosts = [f"{host}:{port}" for host, port in (place(old_primary.url), place(postgres_url))]
    user = urlsplit(postgres_url).netloc.rpartition("@")[0]
    settings = Settings(database_url=f"postgresql://{user}@{','.join(hosts)}/postgres")
    old_primary.set_read_only("on")
    connection = await connect(settings, "test")
    try:
        assert await server(connection) == place(postgres_url)[1]
    finally:
        await connection.close()


async def test_of_several_hosts_that_take_no_writes_none_is_taken(old_primary: OldPrimary) -> None:
    host, port = place(old_primary.url)
    old_primary.set_read_only("on")
    with pytest.raises(ReadOnlyServer):
        await connect(Settings(database_url=f"postgresql://postgres@{host}:{port},{host}:{port}/postgres"), "test")


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_KR", "SQL_ASCII"])
async def test_database_in_another_encoding_is_refused_by_name_until_it_is_in_utf8(
    postgres_server: str, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "0001.first.sql").write_text("SELECT 1;")
    with empty_database(postgres_server, encoding) as (url, create):
        with pytest.raises(Unavailable, match=f"encoding is {encoding}. It must be UTF8"):
            await asyncio.to_thread(migrate, url, "things", tmp_path)
        async with serving("balance", url) as client:
            assert (await client.call("GET", "/v1/accounts/a")).status == 503
            ready = await client.call("GET", "/readyz")
            assert ready.status == 503
            assert f"encoding is {encoding}" in ready.body["checks"]["database"]
            create("UTF8")
            await asyncio.to_thread(migrate, url, "balances", MIGRATIONS)

            async def charged() -> bool:
                return await charge(client, "한글 😀") == 201

            await eventually(charged, HEAL_SECONDS, "charges in the database that replaced it")


@contextmanager
def empty_database(server_url: str, encoding: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Yield a database in that encoding, and a function that replaces it by one in another encoding."""
    name = f"test_{secrets.token_hex(6)}"

    def create(encoding: str) -> None:
        with psycopg.connect(server_url, autocommit=True) as db:
            drop(db)
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'")
            db.execute(statement.format(sql.Identifier(name), sql.Literal(encoding)))

    def drop(db: psycopg.Connection) -> None:
        db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    create(encoding)
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl(), create
    finally:
        with psycopg.connect(server_url, autocommit=True) as db:
            drop(db)


ELSEWHERE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "idle_session_timeout": "3s",
    "client_connection_check_interval": "1h",
    "synchronous_commit": "off",
    "plan_cache_mode": "force_custom_plan",
    "search_path": "nowhere",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Kiritimati",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "row_security": "off",
    "transform_null_equals": "on",
    "standard_conforming_strings": "off",
}


async def test_concurrent_charges_succeed_whatever_the_database_s_defaults_are(own_database: Database) -> None:
    url = migrate_service("balance", own_database)
    alter(own_database.url, *ELSEWHERE.items())
    async with serving("balance", url) as client:
        statuses = await asyncio.gather(*(charge(client, "한글 😀") for _ in range(100)))
        assert set(statuses) == {201}
        assert (await client.get("/v1/accounts/한글 😀"))["balance"] == 100


@pytest.mark.parametrize("synchronous_commit", ["off", "local", "remote_apply"])
async def test_sessions_have_the_settings_that_they_were_designed_for(
    own_database: Database, synchronous_commit: str
) -> None:
    alter(own_database.url, *{**ELSEWHERE, "synchronous_commit": synchronous_commit}.items())
    settings = Settings(database_url=own_database.url, pool_size=1)
    async with Pool(settings, "test") as pool, Session(settings, "test") as session:
        for _ in range(2):  # a pool's connection keeps its settings when it is returned
            async with pool.connection() as lent, session.statement() as own:
                for connection in (lent, own):
                    assert await connection.fetchval("SHOW default_transaction_isolation") == "read committed"
                    assert await connection.fetchval("SHOW idle_session_timeout") == "0"
                    assert await connection.fetchval("SHOW client_connection_check_interval") == "1s"
                    kept = "on" if synchronous_commit == "off" else synchronous_commit
                    assert await connection.fetchval("SHOW synchronous_commit") == kept
                assert await own.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
                assert await lent.fetchval("SHOW plan_cache_mode") == ELSEWHERE["plan_cache_mode"], "not for a pool"


async def test_the_relay_does_not_go_on_listening_to_a_former_primary(old_primary: OldPrimary) -> None:
    with fresh_database(old_primary.url) as database:
        migrate_service("order", database)
        url = migrate_service("relay", database)
        settings = RelaySettings(database_url=url, kafka_bootstrap_servers="127.0.0.1:1", poll_interval_seconds=0.05)

        async def listening() -> bool:
            return REGISTRY.get_sample_value("relay_listening") == 1

        async def deaf() -> bool:
            return not await listening()

        notifier = asyncio.create_task(Notifier(settings, list).run())
        try:
            await eventually(listening, HEAL_SECONDS, "a listener")
            old_primary.set_read_only("on")
            await eventually(deaf, HEAL_SECONDS, "the end of a listener whose server takes no writes")
            old_primary.set_read_only("off")
            await eventually(listening, HEAL_SECONDS, "a listener once the server takes writes")
        finally:
            notifier.cancel()
            await asyncio.gather(notifier, return_exceptions=True)


async def test_start_that_a_former_primary_refuses_is_answered_immediately(old_primary: OldPrimary) -> None:
    with fresh_database(old_primary.url) as database:
        url = migrate_service("order", database)
        body = {"user_id": "u", "lines": [{"product_id": "p", "quantity": 1}]}
        async with serving("order", url, lease_seconds=60.0) as client:
            assert (await client.call("GET", f"/v1/orders/{uuid4()}")).problem == "order-not-found"
            old_primary.set_read_only("on")
            async with asyncio.timeout(3):
                answer = await client.call("POST", "/v1/orders", body)
            assert (answer.status, answer.problem) == (503, "unavailable")
            old_primary.set_read_only("off")
