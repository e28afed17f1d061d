"""The products, coupons and users of a measurement: a database with them is created once, and copied for each round.

The rows are what the product's own migrations define, so that nothing measured can drift from the product. Every
product costs the same and every coupon gives the same discount: what pgbench writes can then be worked out by pgbench.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.infrastructure.databases import Database, create_roles
from tests.infrastructure.services import SCHEMAS, migrate_service

PRODUCTS = 10_000
USERS = 10_000
COUPONS = 240_000  # each can be used once: more than all measurements on one copy can use
PRICE = 1000
DISCOUNT = 100
STOCK = 1_000_000_000
BALANCE = 1_000_000_000_000
TEMPLATE = "bench_catalogue"

# Beside what sells: what is sold out, users who can't pay, and coupons that have expired, for the refusals.
SEED = f"""
INSERT INTO products.products (product_id, name, price, stock, put_in)
SELECT 'p-' || n, 'Product ' || n, {PRICE}, {STOCK}, {STOCK} FROM generate_series(1, {PRODUCTS}) AS n
UNION ALL SELECT 'hot', 'The one that all want', {PRICE}, {STOCK}, {STOCK}
UNION ALL SELECT 'sold-out', 'Gone', {PRICE}, 0, 0;

INSERT INTO balances.accounts (user_id, balance, charged, entry_count)
SELECT 'u-' || n, {BALANCE}, {BALANCE}, 1 FROM generate_series(0, {USERS - 1}) AS n
UNION ALL SELECT 'poor-' || n, 1, 1, 1 FROM generate_series(0, 999) AS n;

INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, balance_after)
SELECT user_id, 1, gen_random_uuid(), 'charge', balance, 'funding', balance FROM balances.accounts;

INSERT INTO coupons.coupons (coupon_id, user_id, kind, value, expires_at)
SELECT 'c-' || n, 'u-' || n % {USERS}, 'fixed', {DISCOUNT}, NULL FROM generate_series(0, {COUPONS - 1}) AS n
UNION ALL SELECT 'expired-' || n, 'u-' || n, 'fixed', {DISCOUNT}, now() - interval '1 day'
FROM generate_series(0, {USERS - 1}) AS n;
"""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The database that is copied, on its server."""

    server_url: str

    @contextmanager
    def copy(self) -> Iterator[Database]:
        """Copy the database; drop the copy afterwards."""
        name = f"bench_{secrets.token_hex(4)}"
        _command(self.server_url, "CREATE DATABASE {} TEMPLATE {}", name, TEMPLATE)
        wait_for_checkpoint(self.server_url)
        try:
            yield Database(urlsplit(self.server_url)._replace(path=f"/{name}").geturl())
        finally:
            _command(self.server_url, "DROP DATABASE {} WITH (FORCE)", name)


def make_catalogue(server_url: str) -> Catalogue:
    """Create the database with the product's migrations and a deployment's roles."""
    _command(server_url, "CREATE DATABASE {} TEMPLATE template0", TEMPLATE)
    database = Database(urlsplit(server_url)._replace(path=f"/{TEMPLATE}").geturl())
    create_roles(database.url)
    for service in SCHEMAS:
        migrate_service(service, database)
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(SEED.encode())
        connection.execute("VACUUM (ANALYZE, FREEZE)")
    return Catalogue(server_url)


def wait_for_checkpoint(server_url: str) -> None:
    """Write everything to disk, so that earlier work does not slow the next measurement down."""
    _command(server_url, "CHECKPOINT")


def _command(server_url: str, command: str, *names: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL(command).format(*map(sql.Identifier, names)))
