"""A slot moves from one cell to another, and back: with services, databases and kills of the command at each step."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from deploy.slots import moving
from deploy.slots.databases import Cell as SlotsCell
from deploy.slots.databases import connected
from deploy.slots.tables import SERVICES, Moved
from services.order import store
from shared.slots import Ownership, slot_of
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Answer, Client, migrate_service, serving
from tests.infrastructure.waiting import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE, BOB = "alice", "bob"
SLOT = slot_of(ALICE)
SINCE = "2020-01-01T00:00:00Z"
MOVED = Moved((SLOT,), Ownership.of([str(SLOT)], datetime.fromisoformat(SINCE)).since)
ALL, REST = ("0-4094", "older"), (f"0-{SLOT - 1}", f"{SLOT + 1}-4094", "older")
NEW, MORE = ("4095",), (str(SLOT), "4095")
SOLD_OUT = [{"product_id": "none", "quantity": 1}]
WAIT_SECONDS = 30
# A process reads the closed slots with its lease, three times in it. No test takes so long that the old cell does it
# while the slot is closed: it would not know for as long that the slot is open again. The new cell does it soon.
OLD_LEASE_SECONDS, NEW_LEASE_SECONDS = 3600, 6


class Killed(BaseException):
    """The command ends here."""


class Cell:
    """The services of a cell, in one database. `start` replaces all of them."""

    def __init__(self, database: Database, product_url: str, lease_seconds: float) -> None:
        self.database = database
        self._lease_seconds = lease_seconds
        self._product_url = product_url
        self._running = AsyncExitStack()
        self.clients: dict[str, Client] = {}

    async def start(self, slots: Sequence[str]) -> None:
        await self.stop()
        cell: dict[str, Any] = {"cell_slots": tuple(slots), "cell_slots_since": SINCE}
        for name in ("coupon", "balance"):
            url = migrate_service(name, self.database)
            self.clients[name] = await self._running.enter_async_context(serving(name, url, **cell))
        admin = free_port()
        order = serving(
            "order",
            migrate_service("order", self.database),
            product_url=self._product_url,
            coupon_url=self.clients["coupon"].url,
            balance_url=self.clients["balance"].url,
            admin_port=admin,
            audit_grace_seconds=0.1,
            expiry_interval_seconds=0.1,
            lease_seconds=self._lease_seconds,
            **cell,
        )
        self.clients["order"] = await self._running.enter_async_context(order)
        session = await self._running.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{admin}"))
        self.clients["admin"] = Client(session, f"http://127.0.0.1:{admin}")

    async def stop(self) -> None:
        await self._running.aclose()
        self._running = AsyncExitStack()

    def urls(self) -> dict[str, str]:
        return {service.name: self.database.as_role(f"{service.name}_migrator") for service in SERVICES}

    async def sql(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        db = await asyncpg.connect(self.database.url)
        try:
            return list(await db.fetch(query, *arguments))
        finally:
            await db.close()

    async def audit(self) -> Any:
        report = await self.clients["admin"].post("/admin/v1/audit", None)
        assert (report["clean"], report["findings"]) == (True, [])
        return report

    async def place(self, user: str, **more: Any) -> Answer:
        key = more.pop("key", None)
        body = {"user_id": user, "lines": [{"product_id": "mug", "quantity": 1}], **more}
        headers = {"Idempotency-Key": key} if key else {}
        return await self.clients["order"].call("POST", "/v1/orders", body, headers=headers)

    async def publish(self) -> None:
        """Mark all events as published."""
        await self.sql("UPDATE orders.outbox SET status = 'SENT', sent_at = now() WHERE status = 'PENDING'")

    async def expire(self, order_id: str) -> None:
        """Let an unpaid order expire."""
        await self.sql("UPDATE orders.orders SET expires_at = now() - interval '1 s' WHERE order_id = $1", order_id)

        async def expired() -> bool:
            return bool((await self.clients["order"].get(f"/v1/orders/{order_id}"))["status"] == "EXPIRED")

        await eventually(expired, 30, "an expired order")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(create_database: Callable[..., Database]) -> AsyncIterator[tuple[Cell, Cell]]:
    """Serve two cells that share a product service. The first has all users."""
    databases = [create_database(migrated=True) for _ in range(2)]
    async with serving("product", migrate_service("product", databases[0])) as product:
        await product.post("/v1/products", {"product_id": "mug", "name": "Mug", "price": 10, "stock": 1000})
        await product.post("/v1/products", {"product_id": "none", "name": "None", "price": 10, "stock": 0})
        # In the old cell the database refuses, in the new one the process, which reads the closed slots with its lease.
        old, new = (
            Cell(databases[0], product.url, OLD_LEASE_SECONDS),
            Cell(databases[1], product.url, NEW_LEASE_SECONDS),
        )
        await old.start(ALL)
        await new.start(NEW)
        yield old, new
        await old.stop()
        await new.stop()


class Command:
    """The command, with its connections. As `mortal`, it dies each time that it says something new."""

    def __init__(self, source: SlotsCell, target: SlotsCell) -> None:
        self._cells = source, target
        self.said: list[str] = []

    async def run(self, step: Callable[..., None], *arguments: Any) -> None:
        """Run a step of the command to its end."""
        await asyncio.to_thread(step, *self._cells, MOVED, *arguments, self.said.append)

    async def survives(self, step: Callable[..., None], *arguments: Any) -> bool:
        """Run a step of the command until it says something new, after a commit or before it; return whether it ended.

        What it has begun is rolled back, as by a kill.
        """
        try:
            await asyncio.to_thread(step, *self._cells, MOVED, *arguments, self._die)
        except Killed:
            return False
        return True

    def _die(self, text: str) -> None:
        if text not in self.said:
            self.said.append(text)
            raise Killed


@contextmanager
def command(source: Cell, target: Cell) -> Iterator[Command]:
    with connected("from", source.urls()) as old, connected("to", target.urls()) as new:
        yield Command(old, new)


async def rows(cell: Cell) -> dict[str, int]:
    """Return how many rows of the slot each table has."""
    counts = {}
    async with await psycopg.AsyncConnection.connect(cell.database.url) as db:
        for service in SERVICES:
            for table in service.tables:
                query = sql.SQL("SELECT count(*) FROM {} WHERE {}")
                found = await db.execute(query.format(service.place(table.name), service.rows(table, MOVED)))
                counts[f"{service.schema}.{table.name}"] = (await found.fetchone() or (0,))[0]
    return counts


async def test_slot_in_sql_is_the_slot_in_python(cells: tuple[Cell, Cell]) -> None:
    users = ["a", "alice", "Ünïcödé", "用户", "🦊" * 20, "x" * 128, " ", *(str(n) for n in range(50))]
    for schema in ("orders", "coupons", "balances"):
        query = f"SELECT {schema}.slot_of(u) FROM unnest($1::text[]) WITH ORDINALITY AS t (u, n) ORDER BY n"
        assert [row[0] for row in await cells[0].sql(query, users)] == [slot_of(user) for user in users]
        query = f"SELECT {schema}.slot_in($1)"
        assert (await cells[0].sql(query, "019a0c1e-7d52-7c47-9b1f-2f4e8a6d0c11"))[0][0] == 0xC47


class History:
    """What Alice has: orders in each final status, two unpaid ones, coupons, an account and keys."""

    def __init__(self, placed: dict[str, Answer]) -> None:
        self._placed = placed
        self.ids = {name: str(answer.body["order_id"]) for name, answer in placed.items()}
        self._orders: dict[str, Any] = {}
        self._ledger: list[Any] = []

    @classmethod
    async def made(cls, cell: Cell) -> "History":
        await charge(cell, ALICE)
        for coupon_id in ("redeemed", "reserved", "expiring", "free"):
            body = {"coupon_id": coupon_id, "user_id": ALICE, "kind": "fixed", "value": 1}
            await cell.clients["coupon"].post("/v1/coupons", body)
        made = cls(
            {
                "PAID": await cell.place(ALICE, key="PAID", coupon_id="redeemed"),
                "REFUNDED": await cell.place(ALICE),
                "CANCELLED": await cell.place(ALICE, payment="later"),
                "EXPIRED": await cell.place(ALICE, payment="later"),
                "REJECTED": await cell.place(ALICE, key="REJECTED", lines=SOLD_OUT),
                "unpaid": await cell.place(ALICE, payment="later", coupon_id="reserved"),
                "expiring": await cell.place(ALICE, payment="later", coupon_id="expiring"),
            }
        )
        for name in ("REFUNDED", "CANCELLED"):
            await cell.clients["order"].post(f"/v1/orders/{made.ids[name]}/cancel", None)
        await cell.expire(made.ids["EXPIRED"])
        made._orders, made._ledger = await made._read(cell)
        for name, id_ in made.ids.items():
            assert made._orders[id_][0]["status"] == (name if name.isupper() else "PENDING_PAYMENT")
        return made

    async def _read(self, cell: Cell) -> tuple[dict[str, Any], list[Any]]:
        order = cell.clients["order"]
        paths = {id_: f"/v1/orders/{id_}" for id_ in self.ids.values()}
        orders = {id_: [await order.get(path), await order.get(f"{path}/timeline")] for id_, path in paths.items()}
        return orders, await cell.clients["balance"].all_items(f"/v1/accounts/{ALICE}/entries")

    async def is_in(self, cell: Cell) -> None:
        """Check that a cell has it, and gives the stored answers to repeats."""
        assert await self._read(cell) == (self._orders, self._ledger)

        async def is_open() -> bool:
            return (await cell.place(ALICE, key="REJECTED", lines=SOLD_OUT)).status != 503

        await eventually(is_open, 30, "a process that knows that the slot is open")
        paid = await cell.place(ALICE, key="PAID", coupon_id="redeemed")
        rejected = await cell.place(ALICE, key="REJECTED", lines=SOLD_OUT)
        for name, again in (("PAID", paid), ("REJECTED", rejected)):
            assert (again.status, again.body) == (self._placed[name].status, self._placed[name].body)
        assert await charge(cell, ALICE) == self._ledger[-1]


async def charge(cell: Cell, user: str) -> Any:
    path, headers = f"/v1/accounts/{user}/charges", {"Idempotency-Key": "charge"}
    return await cell.clients["balance"].post(path, {"amount": 1000}, headers=headers)


async def test_slot_moves_with_all_that_belongs_to_its_users(cells: tuple[Cell, Cell]) -> None:
    old, new = cells
    await charge(old, BOB)
    history = await History.made(old)
    there = await rows(old)
    assert min(there.values()) > 0
    await old.publish()
    with command(old, new) as slots:
        await slots.run(moving.prepare)
        await new.start(MORE)  # before it has the rows
        for cell in cells:
            await cell.audit()
        while not await slots.survives(moving.move, WAIT_SECONDS):
            # Others are served, and at most one cell takes the slot's writes.
            assert (await old.place(BOB)).status == 201
            answers = [await cell.place(ALICE, lines=SOLD_OUT) for cell in cells]
            assert sorted(answer.status for answer in answers) in ([503, 503], [400, 503])
            assert {answer.headers["Retry-After"] for answer in answers if answer.status == 503} == {"5"}
            if slots.said[-1].endswith("cell"):
                for cell in cells:
                    await cell.audit()
    # Three of them to prepare, and none that depends on other sessions.
    assert len([text for text in slots.said if not text.startswith("a lock is held")]) == 26
    assert await rows(old) == there  # until they are deleted

    await history.is_in(new)
    order = new.clients["order"]
    assert (await order.post(f"/v1/orders/{history.ids['unpaid']}/payment", None))["total_amount"] == 9
    assert (await order.post(f"/v1/orders/{history.ids['PAID']}/cancel", None))["status"] == "REFUNDED"
    await new.expire(history.ids["expiring"])
    assert (await new.place(ALICE, coupon_id="expiring")).status == 201
    assert (await new.clients["balance"].get(f"/v1/accounts/{ALICE}"))["balance"] == 1000 - 9 - 9
    events = {tuple(event) for event in await new.sql("SELECT order_id::text, sequence FROM orders.outbox")}
    assert {(history.ids[name], 2) for name in ("unpaid", "PAID", "expiring")} <= events


async def test_old_cell_refuses_the_slot_alone_whatever_its_settings(cells: tuple[Cell, Cell]) -> None:
    old, _ = cells
    (order_id,) = await old.sql("SELECT order_id FROM orders.orders WHERE user_id = $1 LIMIT 1", ALICE)
    # Its unpaid orders expire in the new cell.
    past = "UPDATE orders.orders SET expires_at = now() - interval '1 s' WHERE status = 'PENDING_PAYMENT'"
    await old.sql(f"{past} AND user_id = $1", ALICE)
    assert await old.sql(store.SQL["list_expired"], 100, True) == []
    assert [row["overdue_seconds"] for row in await old.sql(store.SQL["read_backlog"])] == [0]
    refused = [
        await old.clients["order"].call("POST", f"/v1/orders/{order_id[0]}/cancel"),
        await old.clients["balance"].call("POST", f"/v1/accounts/{ALICE}/charges", {"amount": 1}),
        await old.clients["coupon"].call("POST", "/v1/coupons", {"user_id": ALICE, "kind": "fixed", "value": 1}),
        await old.clients["balance"].call(
            "POST", "/internal/v1/commands", {"commands": [{"type": "refund", "order_id": str(order_id[0])}]}
        ),
    ]
    assert [(answer.status, answer.headers["Retry-After"]) for answer in refused] == [*[(503, "5")] * 3, (503, "1")]
    # In one batch with others.
    batch = await asyncio.gather(*(old.place(user, key=uuid.uuid4().hex) for user in [BOB, ALICE] * 10))
    assert [answer.status for answer in batch] == [201, 503] * 10


async def test_rows_of_a_slot_that_has_moved_are_deleted_and_the_sums_agree(cells: tuple[Cell, Cell]) -> None:
    old, new = cells
    await old.start(REST)
    assert (await old.place(ALICE)).status == 421
    with command(old, new) as slots:
        while not await slots.survives(moving.delete_moved):
            await old.audit()
    assert set((await rows(old)).values()) == {0}
    totals = [(await cell.audit())["totals"]["balance"] for cell in cells]
    assert sum(total["funding"] for total in totals) == -2000
    assert sum(total["accounts"] + total["sales"] for total in totals) == 2000


async def test_slot_moves_back_and_its_events_are_complete_in_both_cells(cells: tuple[Cell, Cell]) -> None:
    old, new = cells
    await new.publish()
    await new.stop()
    there = await rows(new)
    with command(new, old) as slots:
        await slots.run(moving.move, WAIT_SECONDS)
    await old.start(ALL)
    await new.start(NEW)
    assert await rows(old) == there
    (paid,) = await old.sql(
        "SELECT order_id::text FROM orders.orders WHERE user_id = $1 AND status = 'PAID' LIMIT 1", ALICE
    )
    assert (await old.clients["order"].post(f"/v1/orders/{paid[0]}/cancel", None))["status"] == "REFUNDED"
    with command(new, old) as slots:
        await slots.run(moving.delete_moved)
    for cell in cells:
        await cell.audit()


async def test_cancelled_move_leaves_everything_as_it_was(cells: tuple[Cell, Cell]) -> None:
    old, new = cells
    await old.publish()
    there = await rows(old)
    with command(old, new) as slots:
        while "balance: arrived in the new cell" not in slots.said:
            assert not await slots.survives(moving.move, WAIT_SECONDS)
        assert await rows(new) == there
        assert (await old.place(ALICE)).status == 503
        while not await slots.survives(moving.cancel):
            pass
    assert await rows(old) == there
    assert set((await rows(new)).values()) == {0}
    assert (await old.place(ALICE)).status == 201
    triggers = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'closed_slot'"
    assert {row[0] for row in await old.sql(triggers)} == {"D"}


class Customer:
    """Buys one thing after the other."""

    def __init__(self, cell: Cell, user: str) -> None:
        self._cell = cell
        self._user = user
        self.bought: list[str] = []
        self.refused: list[Answer] = []

    async def buy(self, until: asyncio.Event) -> None:
        while not until.is_set():
            answer = await self._cell.place(self._user, key=uuid.uuid4().hex)
            if answer.status == 201:
                self.bought.append(answer.body["order_id"])
            else:
                self.refused.append(answer)
                await self._cell.publish()  # it has time


async def test_no_acknowledged_order_is_lost_while_customers_buy(cells: tuple[Cell, Cell]) -> None:
    old, new = cells
    await new.start(MORE)
    for user in (ALICE, BOB):
        path = f"/v1/accounts/{user}/charges"
        await old.clients["balance"].post(path, {"amount": 1_000_000})
    moving_ones, others = ([Customer(old, user) for _ in range(4)] for user in (ALICE, BOB))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for customer in (*moving_ones, *others):
            tasks.create_task(customer.buy(stop))
        with command(old, new) as slots:
            await slots.run(moving.move, WAIT_SECONDS)
        stop.set()
    assert [customer.refused for customer in others] == [[]] * len(others)
    assert {answer.status for customer in moving_ones for answer in customer.refused} == {503}
    bought = {id_ for customer in moving_ones for id_ in customer.bought}
    found = await new.sql("SELECT order_id::text FROM orders.orders WHERE user_id = $1 AND status = 'PAID'", ALICE)
    assert bought
    assert bought <= {row[0] for row in found}
    await old.start(REST)
    for cell in cells:
        await cell.audit()
