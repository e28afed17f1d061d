"""Every Postgres error is either transient or one of our bugs, with a documented reason."""

import asyncpg
import psycopg.errors
import pytest
from asyncpg.exceptions._base import PostgresMessageMeta

from shared.postgres.errors import CLOSED_SLOT, explain, is_about_the_batch, is_transient, needs_operator, translated
from shared.postgres.sqlstates import BUGS, TRANSIENT
from shared.postgres.sqlstates import is_transient as is_transient_code
from shared.refusals import SlotClosed, Unavailable

# asyncpg's list is Postgres' appendix without 00000; psycopg's list is a cross-check.
CODES = sorted(PostgresMessageMeta._message_map)  # type: ignore[attr-defined]
PSYCOPG_CODES = sorted(code for code in psycopg.errors._sqlcodes if len(code) == 5 and not code.islower())


def error(sqlstate: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """Return an error as asyncpg creates it from the server's answer."""
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "message", "V": severity})


def test_every_code_that_the_drivers_know_is_classified_once() -> None:
    assert len(CODES) > 250
    for code in {*CODES, *PSYCOPG_CODES}:
        assert not (code in TRANSIENT and code in BUGS), code
        assert code in TRANSIENT or code in BUGS or (code[:2] in TRANSIENT) != (code[:2] in BUGS), code


def test_the_tables_name_codes_that_exist_each_with_its_reason() -> None:
    classes = {code[:2] for code in CODES} | {"00"}
    for code, reason in {**TRANSIENT, **BUGS}.items():
        assert code in CODES or code in classes, code
        assert reason


@pytest.mark.parametrize(
    "code",
    [
        *("08006", "08P01", "25006", "25P03", "26000", "28000", "28P01", "3D000", "3F000", "40001", "40P01", "42501"),
        *("42703", "42883", "42P01", "42P05", "53100", "53200", "53300", "53400", "54000", "55000", "55006", "55P03"),
        *("57014", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030", "XX000", "XX001", "XX002"),
    ],
)
def test_errors_that_others_repair_are_transient(code: str) -> None:
    assert is_transient(error(code))


@pytest.mark.parametrize(
    "code",
    ["0A000", "21000", "22003", "22012", "23505", "25P02", "42601", "42702", "42804", "54001", "P0001", "RLY01"],
)
def test_errors_of_our_sql_are_bugs(code: str) -> None:
    assert not is_transient(error(code))


def test_error_that_ends_the_session_is_transient_whatever_its_code() -> None:
    assert all(is_transient_code(code, severity) for code in CODES for severity in ("FATAL", "PANIC"))


def test_a_plan_that_a_migration_made_invalid_is_transient() -> None:
    assert is_transient(asyncpg.InvalidCachedStatementError("cached plan must not change result type"))


@pytest.mark.parametrize("lost", [asyncpg.InterfaceError("closed"), ConnectionResetError(), TimeoutError()])
def test_a_lost_connection_is_transient(lost: Exception) -> None:
    assert is_transient(lost)


@pytest.mark.parametrize("other", [ValueError(), KeyError("x"), AssertionError()])
def test_other_exceptions_are_no_database_failure(other: Exception) -> None:
    assert not is_transient(other)


def test_transient_failures_become_unavailable_and_bugs_stay_bugs() -> None:
    with pytest.raises(Unavailable) as unavailable, translated():
        raise error("42501")
    assert str(unavailable.value) == "The database can't serve this now."  # clients get it
    with pytest.raises(asyncpg.PostgresSyntaxError), translated():
        raise error("42601")


def test_log_has_the_server_s_message_and_its_meaning() -> None:
    with pytest.raises(Unavailable) as unavailable, translated():
        raise error("42501")
    assert explain(unavailable.value) == f"InsufficientPrivilegeError: message ({TRANSIENT['42501']})"
    with pytest.raises(Unavailable) as lost, translated():
        raise ConnectionResetError
    assert explain(lost.value) == "The database can't serve this now. (ConnectionResetError)"
    assert explain(Unavailable("The queue is full.")) == "The queue is full."


@pytest.mark.parametrize(
    ("code", "severity", "expected"),
    [
        *((code, "ERROR", True) for code in ("25006", "42501", "42P01", "53100", "54000", "55000", "58030", "XX001")),
        *((code, "ERROR", False) for code in ("08006", "25P03", "40001", "42601", "42P05", "55P03", "57014", "0A000")),
        ("42501", "FATAL", False),  # the session ended, perhaps in the middle of a commit
    ],
)
def test_statement_is_repeated_unless_an_operator_must_act(code: str, severity: str, *, expected: bool) -> None:
    unavailable = Unavailable()
    unavailable.__cause__ = error(code, severity)
    assert needs_operator(unavailable) is expected
    assert not needs_operator(Unavailable("the queue is full"))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        *((error("23505"), True), (error("40P01"), True), (error(CLOSED_SLOT), True)),
        *((error("57P01"), False), (ValueError("a bug"), False)),
    ],
)
def test_only_errors_of_single_items_are_tried_one_by_one(failure: Exception, *, expected: bool) -> None:
    with pytest.raises(Exception) as raised, translated():  # noqa: PT011 - any
        raise failure
    assert is_about_the_batch(raised.value) is expected


def test_closed_slot_is_unavailable_for_longer_and_leaves_the_session_alone() -> None:
    with pytest.raises(SlotClosed) as closed, translated():
        raise error(CLOSED_SLOT)
    assert closed.value.retry_after_seconds == 5
    assert not is_transient(error(CLOSED_SLOT))  # a transient error would end the session
