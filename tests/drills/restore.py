"""Backups are restored into a fresh cluster with the commands of docs/runbook.md, while customers wait."""

import asyncio
import csv
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import psycopg

from tests.drills.drill import Drill, now
from tests.drills.platform import POSTGRES_SETTINGS, Platform
from tests.faults.cluster import PARTICIPANTS, REPLICAS
from tests.faults.process import Process
from tests.infrastructure.databases import LOGINS, PASSWORD, Database
from tests.infrastructure.own_postgres import OwnPostgres
from tests.infrastructure.sagas import UNPUBLISHED
from tests.infrastructure.shopping import a_product, a_user, an_order
from tests.infrastructure.waiting import eventually
from tests.runbook.blocks import Block, blocks_by
from tests.runbook.shell import Shell

SERVICES = ("order", "product", "coupon", "balance", "relay")
BETWEEN_DUMPS = 20  # orders that customers buy between the dumps of two services
WAIT_SECONDS = 60
TRANSACTION_IDS = 10_000
STEP_SECONDS = 200  # a minute has to end before it is proven
PRODUCTS_DUMPED = 1  # the line that has dumped the products
WHOLE, EACH, NEW, MARK, ENDED, AUDIT, REPAIR, CANCEL, CLEAN, BOOTSTRAP, BASELINE, PROVEN, LOST = range(13)


def steps() -> Sequence[Block]:
    """Return the commands of the runbook's section, in sequence."""
    return blocks_by("tests/drills/restore.py")


class Restore:
    """A folder with the backup, where an operator works."""

    def __init__(self, platform: Platform, name: str) -> None:
        self._platform = platform
        self._steps = steps()
        self._folder = platform.folder / name
        self._folder.mkdir()
        passwords = "".join(f"{login.upper()}_PASSWORD={PASSWORD}\n" for login in LOGINS)
        (self._folder / "passwords.env").write_text(passwords)
        processes = platform.cluster.processes
        settings = {
            **{f"ORDER_{one.upper()}_URL": processes[one].url for one in PARTICIPANTS},
            **{one: value for one, value in platform.cluster.environment.items() if one.startswith("ORDER_AUDIT_")},
            "KAFKA_BOOTSTRAP_SERVERS": platform.broker.address,
            **{one.upper(): processes[one].url for one in PARTICIPANTS},
            "ORDER": processes[REPLICAS[0]].url,
            "SHOP": processes[REPLICAS[0]].url,
            "TOKEN": "none",
            "CONSUMER": processes["consumer"].url,
            "CONSUMER_RELAY_URL": processes["relay"].url,
            "ADMIN": platform.cluster.database.url,
            "OPERATOR": "a-drill",
        }
        self._shell = Shell(self._folder, settings, sys.executable)

    async def step(self, number: int) -> str:
        """Run a block; return its output."""
        return await self._shell.run(self._steps[number], STEP_SECONDS)

    async def lines(self, number: int) -> AsyncIterator[int]:
        """Run a block of commands line by line; yield the number of each line when it has run."""
        block = self._steps[number]
        for line, command in enumerate(block.code.splitlines()):
            await self._shell.run(replace(block, code=command), STEP_SECONDS)
            yield line

    async def into_a_fresh_cluster(self) -> set[str]:
        """Create it, restore the backup, and lead every service to it. Return the orders that the backup knows."""
        platform = self._platform
        folder = self._folder / "postgres"
        folder.mkdir()
        postgres = OwnPostgres(platform.reaper, folder, POSTGRES_SETTINGS)
        postgres.start()
        await asyncio.to_thread(postgres.wait)
        database = Database(urlsplit(postgres.url)._replace(path="/platform").geturl())
        variables = {f"{one.upper()}_DATABASE_URL": database.as_role(f"{one}_service") for one in SERVICES}
        variables |= {"NEW_SERVER": postgres.url, "NEW": database.url, "READER": database.as_role("services_reader")}
        variables["CONSUMER_DATABASE_URL"] = database.as_role("platform_consumer")
        self._shell.set(variables)
        await self.step(NEW)
        platform.cluster.postgres, platform.cluster.database = postgres, database
        for service in SERVICES:
            platform.addresses.give(service, database.as_role(f"{service}_service"))
        platform.addresses.give("consumer", database.as_role("platform_consumer"))
        # Otherwise the drill would not show that the relay's watermark survives new transaction ids.
        assert (await self.step(MARK)).splitlines()[-1] == "t", "the cluster's ids are beyond those of the dump"
        with psycopg.connect(database.url) as connection:
            return {row[0] for row in connection.execute("SELECT order_id::text FROM orders.orders")}

    async def repair(self) -> set[str]:
        """Have the audit find the difference, and repair it. Return the orders that were cancelled."""
        await self.step(ENDED)
        await self.step(AUDIT)
        await self.step(REPAIR)
        await self.step(CANCEL)
        await self.step(CLEAN)
        rows = json.loads((self._folder / "backup" / "repaired.json").read_text())
        return {row["order_id"] for row in rows if row["outcome"] != "applied"}

    async def consume_again(self) -> None:
        """Declare that this Kafka belongs to the restored database, and bring the consumer to a new baseline."""
        await self.step(BOOTSTRAP)
        await self.step(BASELINE)
        consumer = self._platform.process("consumer")
        consumer.start()
        await consumer.ready()
        await self.step(PROVEN)
        await self.step(LOST)

    async def check_lost(self, known: set[str]) -> None:
        """Check that each order that a customer was told of, and that the backup lacks, is named. Then forget it."""
        with psycopg.connect(self._platform.cluster.database.url) as connection:
            there = {row[0] for row in connection.execute("SELECT order_id::text FROM orders.orders")}
            consumed = {row[0] for row in connection.execute("SELECT order_id::text FROM platform.orders")}
        purchases = self._platform.load.purchases
        gone = {str(one.order_id) for one in purchases if one.is_acknowledged} - there
        assert gone, "customers have bought after the backup"
        assert not gone & known
        with (self._folder / "backup" / "lost.csv").open() as lost:
            named = {row["order_id"] for row in csv.DictReader(lost)}
        assert not gone - named, f"{len(gone - named)} of {len(gone)} lost orders are not named"
        assert not consumed & gone, "the consumer keeps orders that are lost"
        purchases[:] = [one for one in purchases if one.order_id not in gone]


async def fresh_cluster(platform: Platform) -> float:
    """Restore everything to one moment. What was acknowledged after it is lost by intention."""
    restore = Restore(platform, "restore-fresh")
    await asyncio.to_thread(_use_transaction_ids, platform)
    await restore.step(WHOLE)
    await platform.load.has_sold(BETWEEN_DUMPS)
    await _stop(platform)
    known = await restore.into_a_fresh_cluster()
    await _start(platform)
    cancelled = await restore.repair()
    assert not cancelled, "the services have the same time"
    await restore.consume_again()
    await restore.check_lost(known)
    return now()


async def different_moments(platform: Platform) -> float:
    """Restore each service to another moment: the products before the orders, money and consumer after them."""
    restore = Restore(platform, "restore-moments")
    await asyncio.to_thread(_use_transaction_ids, platform)
    unknown = ""
    async for line in restore.lines(EACH):
        await platform.load.has_sold(BETWEEN_DUMPS)
        if line == PRODUCTS_DUMPED:
            unknown = await _buy_a_new_product(platform)
    await _stop(platform)
    known = await restore.into_a_fresh_cluster()
    await _start(platform)
    cancelled = await restore.repair()
    assert cancelled == {unknown}, "the product service can't hold a product that it does not know"
    await restore.consume_again()
    await restore.check_lost(known)
    return now()


def _use_transaction_ids(platform: Platform) -> None:
    """Use more ids than a restore does, as a cluster of some age has."""
    with psycopg.connect(platform.postgres.url, autocommit=True) as connection:
        for _ in range(TRANSACTION_IDS):
            connection.execute("SELECT pg_current_xact_id()")


async def _buy_a_new_product(platform: Platform) -> str:
    """Create a product and buy it; return the order's id."""
    shop = platform.cluster.shop()
    order = await shop.order.post("/v1/orders", an_order(await a_user(shop), await a_product(shop)))
    assert order["status"] == "PAID", order
    return str(order["order_id"])


async def _stop(platform: Platform) -> None:
    """Stop the order service first: then the topic has every event, and names every order."""
    processes = platform.cluster.processes
    orders = [processes[name] for name in REPLICAS]
    await _end(orders)
    connection = await asyncpg.connect(platform.cluster.database.url)
    try:

        async def published() -> bool:
            return bool(await connection.fetchval(UNPUBLISHED) == 0)

        await eventually(published, WAIT_SECONDS, "the publication of all events")
    finally:
        await connection.close()
    await _end([process for process in processes.values() if process not in orders])


async def _end(processes: Sequence[Process]) -> None:
    for process in processes:
        process.send(signal.SIGTERM)
    await asyncio.gather(*(process.ended() for process in processes))


async def _start(platform: Platform) -> None:
    """Start everything but the consumer."""
    for name, process in platform.cluster.processes.items():
        if name != "consumer":
            process.start()


DRILLS: Sequence[Drill[Platform]] = [
    Drill(
        "restore-fresh",
        "a dump is restored into a fresh cluster; later orders are lost by intention, and named",
        fresh_cluster,
        in_short=True,
    ),
    Drill(
        "restore-moments",
        "dumps of the services, each of another moment, are restored into a fresh cluster; the audit repairs the rest",
        different_moments,
    ),
]
