"""What somebody with a stolen login tries, and Postgres refuses."""

from collections.abc import Iterator, Sequence

import psycopg
import pytest

from shared.postgres.migrations import migrate
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SERVICES_FOLDER
from tests.integration.roles.catalog import OWNER_OF, RELAY_READS, RUNTIME_OF, SCHEMA_OF

# The catalog shows that the second login has the same rights (test_rights.py).
RUNTIME_LOGINS = [login for login in RUNTIME_OF if login.endswith("_a")]
# With any object of a service, also its own.
ON_EVERY_TABLE = [
    "ALTER TABLE {} DISABLE TRIGGER USER",
    "ALTER TABLE {} ADD COLUMN mine int",
    "DROP TABLE {} CASCADE",
    "TRUNCATE {} CASCADE",
    "CREATE TRIGGER mine BEFORE INSERT ON {} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE INDEX ON {} ((1))",
    "CREATE RULE mine AS ON INSERT TO {} DO INSTEAD NOTHING",
    "ALTER TABLE {} OWNER TO CURRENT_USER",
]
ON_FOREIGN_TABLES = ["SELECT FROM {} LIMIT 1", "DELETE FROM {}", "LOCK TABLE {} IN ACCESS SHARE MODE"]
ON_TABLES_OF_THE_TOOL = [*ON_FOREIGN_TABLES, "LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE"]
ON_THE_LEDGER = [
    "UPDATE balances.entries SET amount = 1",
    "UPDATE balances.entries SET amount = 1 WHERE false",
    "DELETE FROM balances.entries",
    "DELETE FROM balances.accounts",
    "UPDATE orders.outbox SET payload = ''",
    "DELETE FROM orders.outbox",
    "UPDATE orders.operator_acts SET actor = 'nobody'",
    "DELETE FROM relay.operator_acts",
    "LOCK TABLE balances.entries IN ACCESS EXCLUSIVE MODE",
]
ANYWHERE = [
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE TABLE public.mine (id int)",
    "CREATE SCHEMA mine",
    "DROP EXTENSION plpgsql",
    "CREATE ROLE mine",
    "SET session_replication_role = replica",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "SELECT pg_read_file('postmaster.pid')",
    "SELECT pg_reload_conf()",
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
    "ALTER ROLE order_service_b PASSWORD 'mine'",
]

# What stays on the disk, although a role may not write to any table.
FILLING_THE_DISK = [
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT lo_import('/etc/hostname', 1)",
    "SELECT lo_open(1, 131072)",
    "SELECT lo_put(1, 0, 'mine')",
    "SELECT lo_truncate(0, 1)",
    "SELECT lo_truncate64(0, 1)",
    "SELECT lowrite(0, 'mine')",
    "SELECT pg_logical_emit_message(true, 'mine', 'text')",
    "SELECT pg_logical_emit_message(false, 'mine', 'bytes'::bytea)",
]


@pytest.fixture(scope="module")
def tables(migrated: Database) -> Sequence[tuple[str, str]]:
    """Return the schema and the name of each table, partition and tool's table."""
    with psycopg.connect(migrated.url) as root:
        query = "SELECT schemaname, schemaname || '.' || tablename FROM pg_tables WHERE schemaname = ANY (%s)"
        return root.execute(query, (list(OWNER_OF),)).fetchall()


def attacks(login: str, tables: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield statements that must be refused to `login`."""
    own = SCHEMA_OF.get(RUNTIME_OF.get(login, ""))
    reads = RELAY_READS if own == "relay" else set()
    for schema, table in tables:
        yield from (statement.format(table) for statement in ON_EVERY_TABLE)
        if "yoyo" in table or table == "platform.migrations":
            yield from (statement.format(table) for statement in ON_TABLES_OF_THE_TOOL)
        elif schema != own and table not in reads:
            yield from (statement.format(table) for statement in ON_FOREIGN_TABLES)
    for schema, owner in OWNER_OF.items():
        yield f"CREATE TABLE {schema}.mine (id int)"
        yield f"CREATE FUNCTION {schema}.mine() RETURNS int LANGUAGE sql RETURN 1"
        yield f"DROP SCHEMA {schema} CASCADE"
        yield f"SET ROLE {owner}"
    for runtime in SCHEMA_OF:
        if runtime != RUNTIME_OF.get(login):
            yield f"SET ROLE {runtime}"
    yield from ON_THE_LEDGER
    yield from ANYWHERE
    yield from FILLING_THE_DISK
    yield "ALTER FUNCTION balances.refuse_change() OWNER TO CURRENT_USER"


@pytest.mark.parametrize("login", [*RUNTIME_LOGINS, "services_monitor"])
def test_stolen_login_can_not_tamper(migrated: Database, tables: Sequence[tuple[str, str]], login: str) -> None:
    succeeded = []
    with psycopg.connect(migrated.as_role(login), autocommit=True) as thief:
        thief.execute("SET default_transaction_read_only = off")
        for attack in attacks(login, tables):
            try:
                with thief.transaction(force_rollback=True):
                    thief.execute(attack)
                succeeded.append(attack)
            except psycopg.errors.InsufficientPrivilege:
                pass
    assert succeeded == []


def test_reader_changes_nothing_even_if_it_allows_itself_to_write(
    migrated: Database, tables: Sequence[tuple[str, str]]
) -> None:
    with psycopg.connect(migrated.as_role("services_reader"), autocommit=True) as reader:
        reader.execute("SET default_transaction_read_only = off")
        for attack in (*ANYWHERE, *FILLING_THE_DISK):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(attack)
        for _, table in tables:
            reader.execute(f"SELECT FROM {table} LIMIT 1")
            for attack in (*ON_EVERY_TABLE, "DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(attack.format(table))


def test_role_without_a_grant_can_not_connect(migrated: Database) -> None:
    with psycopg.connect(migrated.url, autocommit=True) as root:
        root.execute("CREATE ROLE somebody_else LOGIN PASSWORD 'secret'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(migrated.as_role("somebody_else"))
        finally:
            root.execute("DROP ROLE somebody_else")


def test_no_lock_of_another_role_stops_a_migration(migrated: Database) -> None:
    with (
        psycopg.connect(migrated.as_role("coupon_service"), autocommit=True) as thief,
        psycopg.connect(migrated.as_role("services_reader")) as reader,
    ):
        for schema in OWNER_OF:  # former names of the lock
            thief.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"migrate {schema}",))
        for statement in ("SELECT FROM orders.yoyo_lock", "LOCK TABLE orders._yoyo_migration IN ACCESS SHARE MODE"):
            reader.execute(statement)
        url = migrated.as_role("order_migrator") + "?options=-cstatement_timeout=5s"
        assert migrate(url, "orders", SERVICES_FOLDER / "order" / "migrations") == []
