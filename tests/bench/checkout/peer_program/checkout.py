"""The same checkout, written with DBOS: a workflow with a step for each participant, and its compensation.

Runs in an environment of its own, see requirements.in. What it sells is on the product's own tables; gates, stored
outcomes and sagas it needs none, as the library's tables are what makes its steps durable. Its steps work on the
database where the product's ask a service each.

    python checkout.py migrate DATABASE_URL
    python checkout.py run DATABASE_URL STYLE THREADS SECONDS NUMBER OF FIRST_COUPON

STYLE is how a step is made durable: `step` records its result after it, in a transaction of the library's own,
`transaction` in the same one. Process NUMBER of so many keeps to the core of that number. It prints "ready", begins at
the first line that it reads, and ends with a line of JSON.
"""

import json
import os
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource

PRODUCTS, USERS, STEP, PRICE, DISCOUNT = 10_000, 10_000, 1000, 1000, 100  # as in catalogue.py and load.lua
WARM_SECONDS = 4.0

Query = Callable[..., Any]


class RefusedError(Exception):
    """Stock, coupon or balance don't allow it."""


def create_order(query: Query, order: dict[str, Any]) -> None:
    """Insert the order."""
    query(
        """INSERT INTO orders.orders (order_id, user_id, status, lines, coupon_id, currency, payment_attempt)
           VALUES (:order_id, :user_id, 'PLACING', CAST(:lines AS jsonb), :coupon_id, 'KRW', 1)""",
        order_id=order["order_id"],
        user_id=order["user_id"],
        lines=json.dumps(order["lines"]),
        coupon_id=order["coupon_id"],
    )


def hold_stock(query: Query, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Take the stock of every line; return the lines with name and price."""
    priced = []
    for line in order["lines"]:
        found = query(
            """UPDATE products.products SET stock = stock - :quantity
               WHERE product_id = :product_id AND stock >= :quantity RETURNING name, price""",
            **line,
        )
        if not found:
            raise RefusedError("out of stock")
        name, price = found[0]
        query(
            """INSERT INTO products.holds (order_id, product_id, quantity, unit_price)
               VALUES (:order_id, :product_id, :quantity, :price)""",
            order_id=order["order_id"],
            price=price,
            **line,
        )
        priced.append({**line, "name": name, "unit_price": price})
    return priced


def restore_stock(query: Query, order: dict[str, Any]) -> None:
    """Restore the stock."""
    query(
        """WITH restored AS (
               UPDATE products.holds SET status = 'RESTORED', restored_at = now()
               WHERE order_id = :order_id AND status = 'HELD' RETURNING product_id, quantity)
           UPDATE products.products AS p SET stock = stock + r.quantity
           FROM restored AS r WHERE p.product_id = r.product_id RETURNING 1""",
        order_id=order["order_id"],
    )


def redeem_coupon(query: Query, order: dict[str, Any]) -> int:
    """Redeem the coupon; return its discount."""
    found = query(
        """UPDATE coupons.coupons
           SET status = 'REDEEMED', order_id = :order_id, discount_amount = value, held_at = now()
           WHERE coupon_id = :coupon_id AND user_id = :user_id AND status = 'AVAILABLE'
             AND (expires_at IS NULL OR expires_at > now()) RETURNING discount_amount""",
        order_id=order["order_id"],
        coupon_id=order["coupon_id"],
        user_id=order["user_id"],
    )
    if not found:
        raise RefusedError("invalid coupon")
    return int(found[0][0])


def release_coupon(query: Query, order: dict[str, Any]) -> None:
    """Make the coupon available again."""
    query(
        """UPDATE coupons.coupons SET status = 'AVAILABLE', order_id = NULL, discount_amount = NULL, held_at = NULL
           WHERE order_id = :order_id RETURNING 1""",
        order_id=order["order_id"],
    )


def debit(query: Query, order: dict[str, Any], amount: int) -> None:
    """Take the money, and write the ledger."""
    found = query(
        """UPDATE balances.accounts SET balance = balance - :amount, entry_count = entry_count + 1
           WHERE user_id = :user_id AND balance >= :amount RETURNING entry_count, balance""",
        user_id=order["user_id"],
        amount=amount,
    )
    if not found:
        raise RefusedError("insufficient balance")
    number, balance = found[0]
    query(
        """INSERT INTO balances.entries
               (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after)
           VALUES (:user_id, :number, :entry_id, 'debit', -:amount, 'sales', :order_id, 1, :balance)""",
        user_id=order["user_id"],
        number=number,
        entry_id=uuid.uuid4(),
        amount=amount,
        order_id=order["order_id"],
        balance=balance,
    )


def pay_order(query: Query, order: dict[str, Any], lines: list[dict[str, Any]], discount: int) -> None:
    """Mark the order paid and write its event."""
    subtotal = sum(line["quantity"] * line["unit_price"] for line in lines)
    total = subtotal - discount
    query(
        """UPDATE orders.orders SET status = 'PAID', lines = CAST(:lines AS jsonb), subtotal_amount = :subtotal,
               discount_amount = :discount, total_amount = :total, event_sequence = event_sequence + 1, paid_at = now()
           WHERE order_id = :order_id AND status = 'PLACING'""",
        order_id=order["order_id"],
        lines=json.dumps(lines),
        subtotal=subtotal,
        discount=discount,
        total=total,
    )
    event = {**order, "status": "PAID", "lines": lines, "subtotal_amount": subtotal, "discount_amount": discount}
    query(
        """INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload)
           VALUES (:event_id, :order_id, 1, 'order.paid.v1', :payload)""",
        event_id=uuid.uuid4(),
        order_id=order["order_id"],
        payload=json.dumps({**event, "total_amount": total, "currency": "KRW"}).encode(),
    )


def reject_order(query: Query, order: dict[str, Any], reason: str) -> None:
    """End the order unpaid."""
    query(
        "UPDATE orders.orders SET status = 'REJECTED', reason = :reason WHERE order_id = :order_id",
        order_id=order["order_id"],
        reason=reason,
    )


class Shop:
    """The workflow, with its steps made durable in one of the two styles."""

    def __init__(self, url: str, style: str, threads: int) -> None:
        self._url = url
        self._local = threading.local()
        config: Any = {
            "name": "peer-checkout",
            "system_database_url": sqlalchemy_url(url),
            "sys_db_pool_size": threads + 4,
            "db_engine_kwargs": {"pool_pre_ping": False},  # a round trip for each use of a connection
            "use_listen_notify": False,
            "log_level": "ERROR",
            "application_version": "1",
            "max_executor_threads": threads,
        }
        DBOS(config=config)
        self.datasource = SQLAlchemyDatasource.create(sqlalchemy_url(url), engine_kwargs={"pool_size": threads})
        self._durable = self._in_transaction if style == "transaction" else self._as_step
        self.checkout = DBOS.workflow(name="checkout")(self._workflow())

    def _workflow(self) -> Callable[[dict[str, Any]], str]:
        create, pay, reject = (self._durable(step) for step in (create_order, pay_order, reject_order))
        hold, redeem, take = (self._durable(step) for step in (hold_stock, redeem_coupon, debit))
        restore, release = (self._durable(step) for step in (restore_stock, release_coupon))

        def checkout(order: dict[str, Any]) -> str:
            undo: list[Callable[[dict[str, Any]], Any]] = []
            create(order)
            try:
                lines = hold(order)
                undo.append(restore)
                discount = 0
                if order["coupon_id"] is not None:
                    discount = redeem(order)
                    undo.append(release)
                take(order, sum(line["quantity"] * line["unit_price"] for line in lines) - discount)
            except RefusedError as refusal:
                for step in reversed(undo):
                    step(order)
                reject(order, str(refusal))
                return "REJECTED"
            pay(order, lines, discount)
            return "PAID"

        return checkout

    def _in_transaction(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def query(text: str, **values: Any) -> Any:
            result = self.datasource.sql_session().execute(statement(text), values)
            return [tuple(row) for row in result] if result.returns_rows else None

        def step(*arguments: Any) -> Any:
            return work(query, *arguments)

        durable = self.datasource.transaction(name=work.__name__, isolation_level="READ COMMITTED")
        result: Callable[..., Any] = durable(step)
        return result

    def _as_step(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            with self._connection().transaction(), self._connection().cursor() as cursor:

                def query(text: str, **values: Any) -> Any:
                    cursor.execute(psycopg_text(text), values)
                    return cursor.fetchall() if cursor.description else None

                return work(query, *arguments)

        result: Callable[..., Any] = DBOS.step(name=work.__name__)(step)
        return result

    def _connection(self) -> "psycopg.Connection[Any]":
        """Return this thread's own connection."""
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg.connect(self._url, autocommit=True)
        connection: psycopg.Connection[Any] = self._local.connection
        return connection


@cache
def statement(text: str) -> Any:
    """Return a query for SQLAlchemy."""
    return sa.text(text)


@cache
def psycopg_text(text: str) -> bytes:
    """Return a query for psycopg."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", text).encode()


def sqlalchemy_url(url: str) -> str:
    """Return the address with the driver that DBOS uses."""
    return url.replace("postgresql://", "postgresql+psycopg://")


class Buyers:
    """The load: each thread places one order after the other."""

    def __init__(self, shop: Shop, number: int, of: int, first_coupon: int) -> None:
        self._shop = shop
        self._coupons = iter(range(first_coupon + number, 10**9, of))
        self._turn = threading.Lock()
        self.counting = False
        self.buying = True
        self.paid: list[float] = []
        self.last_coupon = first_coupon

    def buy(self, seed: int) -> None:
        """Buy until stopped."""
        chance = random.Random(seed)
        while self.buying:
            began = time.perf_counter()
            status = self._shop.checkout(self._order(chance))
            if status != "PAID":
                raise RuntimeError(f"an order became {status}")
            if self.counting:
                self.paid.append(time.perf_counter() - began)

    def _order(self, chance: random.Random) -> dict[str, Any]:
        product = chance.randint(1, PRODUCTS - 2 * STEP)
        products = [product]
        for _ in range(chance.randint(0, 2)):
            products.append(products[-1] + chance.randint(1, STEP))
        user, coupon = chance.randrange(USERS), None
        if chance.randint(1, 10) <= 3:
            with self._turn:
                coupon = self.last_coupon = next(self._coupons)
            user = coupon % USERS
        return {
            "order_id": str(uuid.uuid4()),
            "user_id": f"u-{user}",
            "coupon_id": None if coupon is None else f"c-{coupon}",
            "lines": [{"product_id": f"p-{number}", "quantity": 1} for number in products],
        }


@contextmanager
def launched() -> Any:
    """Run the library."""
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def run(url: str, style: str, threads: int, seconds: float, number: int, of: int, first_coupon: int) -> None:
    """Buy for some seconds, after a warm-up that doesn't count, and print the number of purchases."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    shop = Shop(url, style, threads)
    buyers = Buyers(shop, number, of, first_coupon)
    with launched():
        print("ready", flush=True)
        sys.stdin.readline()
        working = [threading.Thread(target=buyers.buy, args=(hash((number, thread)),)) for thread in range(threads)]
        for thread in working:
            thread.start()
        time.sleep(WARM_SECONDS)
        buyers.counting = True
        began = time.perf_counter()
        time.sleep(seconds)
        buyers.counting = False
        took = time.perf_counter() - began
        buyers.buying = False
        for thread in working:
            thread.join()
    latencies = sorted(buyers.paid)
    middle = latencies[len(latencies) // 2] if latencies else 0.0
    print(
        json.dumps(
            {"checkouts": len(latencies), "seconds": took, "p50_us": middle * 1e6, "last_coupon": buyers.last_coupon}
        )
    )


def migrate(url: str) -> None:
    """Create the library's tables."""
    Shop(url, "transaction", 1)
    with launched():
        pass


if __name__ == "__main__":
    if sys.argv[1] == "migrate":
        migrate(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), *map(int, sys.argv[6:9]))
