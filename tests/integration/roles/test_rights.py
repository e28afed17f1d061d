"""Each role holds only the rights that it needs: every role, object and privilege, from the catalog."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.infrastructure.databases import LOGINS, Database
from tests.integration.roles.catalog import (
    MIGRATORS,
    OWNER_OF,
    PREFIX_OF,
    RELAY_CALLS,
    RUNTIME_OF,
    SCHEMA_OF,
    Right,
    allowed,
    held,
    names,
)


@pytest.fixture(scope="module")
def root(migrated: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated.url, autocommit=True) as connection:
        yield connection


def test_no_role_holds_a_right_beyond_its_own(root: psycopg.Connection) -> None:
    found = held(root)
    reads = {right for right in found if right[::2] == ("services_reader", right.name) and right.privilege == "SELECT"}
    assert sorted(found - allowed(root) - reads) == []
    assert {right.name for right in reads} >= set(names(root)[0])


@pytest.mark.parametrize("runtime", PREFIX_OF)
def test_both_logins_have_exactly_the_rights_and_settings_of_their_runtime_role(
    root: psycopg.Connection, runtime: str
) -> None:
    found = held(root)
    settings: dict[str, list[str]] = dict(
        root.execute(
            "SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting WHERE setdatabase = 0"
        ).fetchall()
    )
    for login in (f"{runtime}_a", f"{runtime}_b"):
        assert {right[1:] for right in found if right.role == login} == {
            right[1:] for right in found if right.role == runtime
        }
        assert settings[login] == settings[runtime]


def test_every_login_has_limits_and_migrators_act_as_owners(migrated: Database, root: psycopg.Connection) -> None:
    limits = root.execute(
        "SELECT rolconnlimit, current_setting('max_connections')::int / 4 FROM pg_roles WHERE rolname = ANY (%s)",
        (LOGINS,),
    ).fetchall()
    assert len(limits) == len(LOGINS)
    assert all(0 < limit <= quarter for limit, quarter in limits)
    show = (
        "SELECT current_user::text, current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout')"
    )
    for login in LOGINS:
        with psycopg.connect(migrated.as_role(login)) as connection:
            row = connection.execute(show).fetchone()
        if login in MIGRATORS:
            assert row == (login.replace("_migrator", "_owner"), "0", "5s", "0")
        else:
            assert row is not None
            assert row[0] == login
            assert "0" not in row


@pytest.mark.parametrize("schema", OWNER_OF)
def test_a_role_that_can_not_log_in_owns_the_whole_schema(root: psycopg.Connection, schema: str) -> None:
    owners = root.execute(
        """
        SELECT DISTINCT rolname, rolcanlogin FROM pg_roles JOIN (
            SELECT nspowner AS owner FROM pg_namespace WHERE nspname = %(schema)s
            UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s)
            UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = to_regnamespace(%(schema)s)
            UNION ALL SELECT typowner FROM pg_type WHERE typnamespace = to_regnamespace(%(schema)s)
        ) AS owned ON owner = pg_roles.oid
        """,
        {"schema": schema},
    ).fetchall()
    assert owners == [(OWNER_OF[schema], False)]


def test_no_login_owns_an_object(root: psycopg.Connection) -> None:
    owners = root.execute("SELECT refobjid::regrole::text FROM pg_shdepend WHERE deptype = 'o'").fetchall()
    assert {owner for (owner,) in owners} & {*LOGINS, *RUNTIME_OF} == set()


def test_roles_have_no_attributes_and_no_memberships_beyond_their_own(root: psycopg.Connection) -> None:
    roles = [*RUNTIME_OF, *MIGRATORS, *OWNER_OF.values(), "services_reader", "services_monitor"]
    strong = root.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)"
        " AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)",
        (roles,),
    ).fetchall()
    members = root.execute(
        "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members"
        " WHERE member::regrole::text = ANY (%s)",
        (roles,),
    ).fetchall()
    assert strong == []
    assert set(members) == {
        *((login, runtime) for login, runtime in RUNTIME_OF.items() if login != runtime),
        *((f"{prefix}_migrator", f"{prefix}_owner") for prefix in PREFIX_OF.values()),
        ("services_monitor", "pg_monitor"),
    }


def test_functions_with_the_owners_rights_fix_their_search_path(
    root: psycopg.Connection,
) -> None:
    functions: dict[str, list[str]] = dict(
        root.execute(
            "SELECT proname, proconfig FROM pg_proc WHERE prosecdef AND pronamespace::regnamespace::text = ANY (%s)",
            (list(OWNER_OF),),
        ).fetchall()
    )
    assert set(functions) == RELAY_CALLS - {"redacted"}
    assert all("search_path=pg_catalog, pg_temp" in settings for settings in functions.values())
    callers = {right.role for right in held(root) if right.name.removeprefix("orders.") in functions}
    assert callers == {login for login, runtime in RUNTIME_OF.items() if runtime == "relay_service"}


@pytest.mark.parametrize("runtime", PREFIX_OF)
def test_what_a_future_migration_creates_is_closed_but_for_the_reader(migrated: Database, runtime: str) -> None:
    schema = SCHEMA_OF[runtime]
    with psycopg.connect(migrated.as_role(f"{PREFIX_OF[runtime]}_migrator"), autocommit=True) as migrator:
        migrator.execute(f"CREATE TABLE {schema}.later (id int)")
        migrator.execute(f"CREATE FUNCTION {schema}.later() RETURNS int LANGUAGE sql RETURN 1")
        try:
            with psycopg.connect(migrated.url, autocommit=True) as root:
                rights = {right for right in held(root) if right.name == f"{schema}.later"}
        finally:
            migrator.execute(f"DROP TABLE {schema}.later; DROP FUNCTION {schema}.later")
    assert rights == {Right("services_reader", "table", f"{schema}.later", "SELECT")}
