"""Slots that can't move, or not now: the command says why, and the old cell keeps them."""

import os
import random
import re
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from deploy.slots import __main__ as command_line
from deploy.slots import moving
from deploy.slots.copying import copy
from deploy.slots.databases import Cell, RefusedError, advance, close, connected, reopen, set_state
from deploy.slots.tables import BALANCES, COUPONS, ORDERS, SERVICES, Moved
from shared.ids import uuid7
from shared.process.exits import Exit
from shared.slots import Ownership, slot_of
from tests.infrastructure.databases import Database

REPOSITORY = Path(__file__).parents[2]
SINCE = datetime.fromisoformat("2020-01-01T00:00:00Z")
OLDER = UUID("016f5e66-e7ff-7c47-8000-000000000000")  # a millisecond before SINCE, with the slot of alice
ALICE = "alice"
SLOT = slot_of(ALICE)
MOVED = Moved((SLOT,), Ownership.of([str(SLOT)], SINCE).since)
AN_ORDER = (
    "INSERT INTO orders.orders (order_id, user_id, status, lines, currency) VALUES (%s, %s, 'CANCELLED', '[]', 'KRW')"
)
A_SAGA = """INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, target, owner)
            VALUES (gen_random_uuid(), %s, 'close', 1, 'COMPENSATING', 'CANCELLED', gen_random_uuid())"""
AN_EVENT = """INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, status, parked_at, parked_reason)
              VALUES (gen_random_uuid(), %s, 1, 'order.paid.v1', '{}', 'PARKED', now(), 'too large')"""
A_KEY = """INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, status, body)
           VALUES (%s, 'place', 'key', '', 200, '')"""
A_COUPON = "INSERT INTO coupons.coupons (coupon_id, user_id, kind, value) VALUES ('TWICE', %s, 'fixed', 1)"
WAITS = "SELECT 1 FROM pg_locks WHERE relation = 'orders.closed_slots'::regclass AND NOT granted"
A_CHARGE = """
WITH opened AS (
    INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES (%(user)s, 5, 5, 1)
)
INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, balance_after)
VALUES (%(user)s, 1, gen_random_uuid(), 'charge', 5, 'funding', 5)
"""


@pytest.fixture(scope="module")
def databases(create_database: Callable[..., Database]) -> list[Database]:
    return [create_database(migrated=True) for _ in range(2)]


@pytest.fixture(autouse=True)
def emptied(databases: list[Database]) -> None:
    for database in databases:
        with psycopg.connect(database.url) as root:
            root.execute("SET session_replication_role = replica")  # no triggers
            for service in SERVICES:
                for table in ("closed_slots", *(table.name for table in service.tables)):
                    root.execute(f"DELETE FROM {service.schema}.{table}".encode())
            root.execute("DELETE FROM orders.outbox")


def urls(database: Database) -> dict[str, str]:
    return {service.name: database.as_role(f"{service.name}_migrator") for service in SERVICES}


@contextmanager
def cells(databases: list[Database]) -> Iterator[tuple[Cell, Cell]]:
    with connected("from", urls(databases[0])) as old, connected("to", urls(databases[1])) as new:
        yield old, new


def put(database: Database, query: str, *arguments: Any) -> None:
    with psycopg.connect(database.url) as root:
        root.execute(query.encode(), arguments)


def charge(database: Database, *users: str) -> None:
    with psycopg.connect(database.url) as root, root.cursor() as cursor:
        cursor.executemany(A_CHARGE, [{"user": user} for user in users])


def refusal(databases: list[Database], step: Callable[..., None], *arguments: Any) -> str:
    """Return why a step of the command is refused."""
    with cells(databases) as (old, new), pytest.raises(RefusedError) as refused:
        step(old, new, MOVED, *arguments, lambda _: None)
    return str(refused.value)


def states(databases: list[Database]) -> list[set[str | None]]:
    with cells(databases) as both:
        return [set(cell.states(MOVED).values()) for cell in both]


def new_order(user: str = ALICE) -> UUID:
    return uuid7(slot=slot_of(user))


def test_users_with_orders_older_than_slots_stay(databases: list[Database]) -> None:
    put(databases[0], AN_ORDER, OLDER, ALICE)
    assert str(OLDER) in refusal(databases, moving.move, 0)
    assert states(databases) == [{None}, {None}]


def test_order_whose_id_has_the_slot_of_another_user_is_named(databases: list[Database]) -> None:
    order_id = new_order()
    put(databases[0], AN_ORDER, order_id, "bob")
    assert str(order_id) in refusal(databases, moving.prepare)


def test_coupon_whose_id_both_cells_have_is_named(databases: list[Database]) -> None:
    put(databases[0], A_COUPON, ALICE)
    put(databases[1], A_COUPON, "bob")
    assert "TWICE" in refusal(databases, moving.move, 0)


def test_cell_with_users_of_the_slot_gets_no_second_copy(databases: list[Database]) -> None:
    charge(databases[1], ALICE)
    assert "balances.accounts of the target has rows" in refusal(databases, moving.move, 0)
    with pytest.raises(RefusedError, match="the same database"):
        refusal([databases[1], databases[1]], moving.move, 0)


def test_live_saga_and_parked_event_keep_a_slot_until_it_is_cancelled(databases: list[Database]) -> None:
    order_id = new_order()
    put(databases[0], AN_ORDER, order_id, ALICE)
    put(databases[0], A_SAGA, order_id)
    assert "1 sagas are live" in refusal(databases, moving.move, 0)
    put(databases[0], "DELETE FROM orders.sagas")
    put(databases[0], AN_EVENT, order_id)
    assert "1 events of these slots are parked" in refusal(databases, moving.move, 0)
    assert states(databases)[1] == {"arriving"}
    with cells(databases) as (old, new):
        moving.cancel(old, new, MOVED, lambda _: None)
    assert states(databases) == [{None}, {"gone"}]


def test_what_arrives_changed_is_not_kept(databases: list[Database]) -> None:
    charge(databases[0], ALICE)
    # In the new cell, somebody's trigger changes what is written.
    with psycopg.connect(databases[1].url) as root:
        root.execute("""CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN NEW.charged := 6; RETURN NEW; END $$""")
        root.execute(
            "CREATE TRIGGER more BEFORE INSERT ON balances.accounts FOR EACH ROW EXECUTE FUNCTION public.more()"
        )
    try:
        assert "balances.accounts: what arrived differs" in refusal(databases, moving.move, 0)
        assert states(databases)[0] == {"leaving"}
    finally:
        put(databases[1], "DROP FUNCTION public.more() CASCADE")


def test_cell_that_turns_out_to_have_users_of_the_slot_stays_open(databases: list[Database]) -> None:
    charge(databases[1], ALICE)
    with cells(databases) as (_, new):
        # As after a kill between the two: closed, and not looked at yet.
        close(new, BALANCES, MOVED, "arriving", print)
    assert "has rows of these slots" in refusal(databases, moving.cancel)
    assert states(databases) == [{None}, {None}]
    charge(databases[1], "bob")


def test_slots_that_are_gone_stay_closed_if_a_move_to_them_is_refused(databases: list[Database]) -> None:
    charge(databases[1], ALICE)
    with cells(databases) as (old, new):
        for service in SERVICES:
            # They left this cell before, and their rows are not deleted yet.
            set_state(new, service, MOVED, "arriving")
            advance(new, service, MOVED, "arriving", "gone")
            set_state(old, service, MOVED, "leaving")
    assert "has rows of these slots" in refusal(databases, moving.move, 0)
    assert states(databases) == [{"leaving"}, {"gone"}]


def test_copy_of_a_move_that_did_not_end_is_never_handed_over(databases: list[Database]) -> None:
    with cells(databases) as (old, new):
        for service in SERVICES:
            set_state(old, service, MOVED, "leaving")
            set_state(new, service, MOVED, "arriving")
            copy(old, new, service, MOVED, print)
            reopen(old, service, MOVED, "leaving", print)
    charge(databases[0], ALICE)
    assert "earlier copy" in refusal(databases, moving.move, 0)
    with cells(databases) as (old, new):
        moving.cancel(old, new, MOVED, lambda _: None)
        moving.move(old, new, MOVED, 0, lambda _: None)
    with psycopg.connect(databases[1].url) as root:
        assert root.execute("SELECT user_id FROM balances.accounts").fetchall() == [(ALICE,)]


def test_hand_over_that_has_begun_is_not_cancelled_from_another_cell(databases: list[Database]) -> None:
    with cells(databases) as (_, new):
        for service in (ORDERS, COUPONS):
            set_state(new, service, MOVED, "arriving")
            advance(new, service, MOVED, "arriving", "arrived")
    assert "handed over" in refusal(databases, moving.cancel)
    with cells(databases) as (_, new):
        assert new.state(ORDERS, MOVED) == "arrived"


def test_command_that_lost_its_lock_changes_nothing_of_another_one(databases: list[Database]) -> None:
    charge(databases[0], ALICE)
    with cells(databases) as (old, new):
        # As read before it was paused: leaving and arriving. Meanwhile, another command cancelled the move.
        set_state(new, BALANCES, MOVED, "arriving")
        advance(new, BALANCES, MOVED, "arriving", "gone")
        late_steps: list[Callable[[], None]] = [
            lambda: copy(old, new, BALANCES, MOVED, print),
            lambda: advance(old, BALANCES, MOVED, "leaving", "gone"),
            lambda: reopen(new, BALANCES, MOVED, "arrived", print),
            lambda: set_state(new, BALANCES, MOVED, "leaving"),
        ]
        for late in late_steps:
            with pytest.raises(RefusedError, match="another command"):
                late()
        assert (old.state(BALANCES, MOVED), new.state(BALANCES, MOVED)) == (None, "gone")
    with psycopg.connect(databases[1].url) as root:
        assert root.execute("SELECT FROM balances.accounts").fetchall() == []


def test_vacuum_of_the_closed_slots_is_no_other_command(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.slots.databases.LOCK_TIMEOUT", "30s")
    with psycopg.connect(databases[0].url, autocommit=True) as root, ThreadPoolExecutor(1) as pool:
        with root.transaction():
            # As vacuum does, for less time than the command waits.
            root.execute("LOCK TABLE orders.closed_slots IN SHARE UPDATE EXCLUSIVE MODE")
            found = pool.submit(states, databases)
            while not (root.execute(WAITS).fetchone() or found.done()):
                pass
        assert found.result() == [{None}, {None}]


def test_coupon_that_was_made_meanwhile_is_named(databases: list[Database]) -> None:
    with cells(databases) as (old, new):
        moving.prepare(old, new, MOVED, lambda _: None)
        put(databases[0], A_COUPON, ALICE)
        close(old, ORDERS, MOVED, "leaving", print)
    put(databases[1], A_COUPON, "bob")
    assert "(coupon_id)=(TWICE)" in refusal(databases, moving.move, 0)
    with cells(databases) as (old, new):
        moving.cancel(old, new, MOVED, lambda _: None)
    assert states(databases) == [{None}, {"gone"}]


def test_what_is_being_written_while_a_slot_closes_moves_too(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.slots.databases.LOCK_PAUSE_SECONDS", 0)
    with psycopg.connect(databases[0].as_role("order_service")) as service, cells(databases) as (old, new):
        service.execute(A_KEY.encode(), (ALICE,))

        def commit(text: str) -> None:
            if "a lock is held" in text:
                service.commit()

        moving.move(old, new, MOVED, 0, commit)
        with pytest.raises(psycopg.DatabaseError, match="is closed"):
            service.execute(A_KEY.replace("'key'", "'late'").encode(), (ALICE,))
    with psycopg.connect(databases[1].url) as root:
        assert root.execute("SELECT key FROM orders.idempotency_keys").fetchall() == [("key",)]


def test_kill_between_a_state_and_its_triggers_leaves_no_hole(databases: list[Database]) -> None:
    with cells(databases) as (old, new):
        for service in SERVICES:
            set_state(old, service, MOVED, "leaving")
        moving.move(old, new, MOVED, 0, lambda _: None)
    with (
        psycopg.connect(databases[0].as_role("order_service")) as session,
        pytest.raises(psycopg.DatabaseError, match="is closed"),
    ):
        session.execute(A_KEY.encode(), (ALICE,))


def moved_by_now(databases: list[Database]) -> bool:
    """Return whether the slot has moved: not while the server has not noticed that an earlier command was killed."""
    try:
        with cells(databases) as (old, new):
            moving.move(old, new, MOVED, 0, lambda _: None)
    except RefusedError as error:
        if "another command" in str(error):
            return False
        raise
    return True


def test_killed_command_is_run_again(databases: list[Database]) -> None:
    order_id = new_order()
    put(databases[0], AN_ORDER, order_id, ALICE)
    put(databases[0], A_SAGA, order_id)
    settings = {f"FROM_{name.upper()}_DATABASE_URL": url for name, url in urls(databases[0]).items()}
    settings |= {f"TO_{name.upper()}_DATABASE_URL": url for name, url in urls(databases[1]).items()}
    environment = {**os.environ, **settings, "CELL_SLOTS_SINCE": SINCE.isoformat(), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "deploy.slots", "move", str(SLOT)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as command:
        assert command.stdout is not None
        assert any("1 sagas are live" in line for line in command.stdout)
        command.kill()
    put(databases[0], "DELETE FROM orders.sagas")
    deadline = time.monotonic() + 10
    while not moved_by_now(databases):
        assert time.monotonic() < deadline
    assert states(databases) == [{"gone"}, {None}]


def test_only_one_command_at_a_time_moves_slots_of_a_cell(databases: list[Database]) -> None:
    with cells(databases), pytest.raises(RefusedError, match="another command"), cells(databases):
        pass


def test_slots_that_moved_on_are_not_moved_or_cancelled_again(databases: list[Database]) -> None:
    charge(databases[0], ALICE)
    with cells(databases) as (old, new):
        moving.move(old, new, MOVED, 0, lambda _: None)
        moving.move(old, new, MOVED, 0, lambda _: None)  # nothing is left to do
    assert states(databases) == [{"gone"}, {None}]
    assert "handed over" in refusal(databases, moving.cancel)
    with psycopg.connect(databases[0].url) as root, pytest.raises(psycopg.errors.DatabaseError, match="is closed"):
        root.execute("INSERT INTO balances.accounts VALUES (%s, 1, 1, 1)", (ALICE,))
    back = databases[::-1]
    assert "delete them there first" in refusal(back, moving.move, 0)
    with cells(databases) as (old, new):
        moving.delete_moved(old, new, MOVED, lambda _: None)
    with cells(back) as (old, new):
        moving.cancel(old, new, MOVED, lambda _: None)
        moving.move(old, new, MOVED, 0, lambda _: None)
    assert states(databases) == [{None}, {"gone"}]
    assert "arriving" not in refusal(databases, moving.delete_moved)


def test_ledger_is_deleted_only_where_another_cell_has_it(databases: list[Database]) -> None:
    charge(databases[0], ALICE)
    for table in ("entries", "accounts"):
        with psycopg.connect(databases[0].url) as root, pytest.raises(psycopg.errors.RestrictViolation):
            root.execute(f"DELETE FROM balances.{table}".encode())


def test_any_number_of_slots_move_together(databases: list[Database]) -> None:
    source = random.Random(21)
    users = ["".join(source.choices(string.printable + "äß漢🦊", k=source.randint(1, 128))) for _ in range(200)]
    charge(databases[0], *set(users))
    moved = Moved(range(2048), MOVED.first_id)
    with cells(databases) as (old, new):
        moving.move(old, new, moved, 0, lambda _: None)
        moving.delete_moved(old, new, moved, lambda _: None)
    found = []
    for database in databases:
        with psycopg.connect(database.url) as root:
            found.append({user for (user,) in root.execute("SELECT user_id FROM balances.entries").fetchall()})
    assert found == [
        {user for user in users if slot_of(user) >= 2048},
        {user for user in users if slot_of(user) < 2048},
    ]
    assert "some of the slots" in refusal_of(databases, Moved((2047, 2048), MOVED.first_id))


def refusal_of(databases: list[Database], moved: Moved) -> str:
    with cells(databases) as (old, new), pytest.raises(RefusedError) as refused:
        moving.move(old, new, moved, 0, lambda _: None)
    return str(refused.value)


def test_command_line_moves_and_ends_with_its_statuses(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends_with(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            command_line.main(words)
        return int(ended.value.code or 0)

    assert ends_with("status", str(SLOT)) == Exit.MISCONFIGURED
    monkeypatch.setenv("CELL_SLOTS_SINCE", SINCE.isoformat())
    assert ends_with("status", str(SLOT)) == Exit.MISCONFIGURED
    for name, database in zip(("FROM", "TO"), databases, strict=True):
        for service, url in urls(database).items():
            monkeypatch.setenv(f"{name}_{service.upper()}_DATABASE_URL", url)
    for words in ((), ("4096",), ("older",)):
        assert ends_with("move", *words) == Exit.MISCONFIGURED
    assert ends_with("prepare", str(SLOT)) == Exit.DONE
    assert ends_with("cancel", str(SLOT)) == Exit.DONE
    assert ends_with("delete", str(SLOT)) == Exit.FAILED
    assert ends_with("move", str(SLOT)) == Exit.DONE
    assert ends_with("delete", str(SLOT)) == Exit.DONE
    capsys.readouterr()
    with cells(databases):  # of a command that runs
        assert ends_with("delete", str(SLOT)) == Exit.FAILED
        assert ends_with("status", f"{SLOT}-{SLOT + 2}") == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        f"{SLOT} in the old cell: order: gone, coupon: gone, balance: gone",
        f"{SLOT + 1}-{SLOT + 2} in the old cell: order: open, coupon: open, balance: open",
        f"{SLOT}-{SLOT + 2} in the new cell: order: open, coupon: open, balance: open",
    ]


def test_document_names_every_command() -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    assert set(re.findall(r"`python -m deploy\.slots (\w+)", page)) == set(command_line.slots.commands)
