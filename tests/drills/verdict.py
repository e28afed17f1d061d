"""Judges a drill when its load has ended: lost orders, books, the consumer's records, the operators' audit."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from tests.drills.load import Purchase
from tests.faults.cluster import PARTICIPANTS, Cluster
from tests.faults.process import REPOSITORY
from tests.infrastructure.books import Urls, violations
from tests.infrastructure.sagas import UNPUBLISHED, sagas_ended
from tests.infrastructure.waiting import eventually

ENDED_SECONDS = 60  # the promised time within which every saga ends
CONSUMED_SECONDS = 60


Audited = tuple[str, Sequence[object]]  # the result in words, and the findings


@dataclass(frozen=True, slots=True)
class Verdict:
    """The orders that are lost, the audit's result in words, and everything else that is wrong.

    `figures`: what else is worth a place in the table.
    """

    lost: Sequence[str]
    audit: str
    wrong: Sequence[str]
    figures: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Records:
    """Where the records are that a verdict compares, as superusers' addresses, and what runs the operators' audit.

    `orders`: of the order service, of each cell. `books`: of all services, as `violations` takes them.
    """

    orders: Sequence[str]
    consumer: str
    books: Urls
    audit: Callable[[], Awaitable[Audited]]


def lost(purchases: Sequence[Purchase], orders: Mapping[str, str]) -> list[str]:
    """Return the orders of which a customer was told more than `orders` (statuses by id) has.

    An order that was only accepted may have been refused since, but it must exist.
    """
    return [
        one.order_id
        for one in purchases
        if one.order_id is not None
        and (one.order_id not in orders or (one.is_acknowledged and orders[one.order_id] != "PAID"))
    ]


async def judge(records: Records, purchases: Sequence[Purchase]) -> Verdict:
    """Wait until all sagas have ended and all events are consumed, then compare everything. Raises DeadlineError."""
    orders: dict[str, str] = {}
    for url in records.orders:
        async with connected(url) as connection:
            await sagas_ended(connection, ENDED_SECONDS, UNPUBLISHED)
            query = "SELECT order_id::text, status FROM orders.orders"
            orders |= {row["order_id"]: row["status"] for row in await connection.fetch(query)}
    missing = lost(purchases, orders)
    bought = [one.order_id for one in purchases if one.is_acknowledged and one.order_id not in missing]
    async with connected(records.consumer) as connection:

        async def consumed() -> bool:
            query = "SELECT count(*) FROM platform.orders WHERE order_id = ANY ($1::uuid[]) AND status = 'PAID'"
            return bool(await connection.fetchval(query, bought) == len(bought))

        await eventually(consumed, CONSUMED_SECONDS, "the consumer's records")
    audit, findings = await records.audit()
    wrong = [f"{len(missing)} orders are lost: {missing[:3]}"] if missing else []
    books = await violations(records.books)
    wrong += [f"the books: {len(books)} lines, {books[0]}"] if books else []
    wrong += [f"the audit: {findings}"] if findings else []
    return Verdict(missing, audit, wrong)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection"]:
    """Connect to a database."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def audited(cluster: Cluster) -> Audited:
    """Run the operators' audit; return its result in words, and its findings."""
    urls = {f"ORDER_{name.upper()}_URL": cluster.processes[name].internal_url for name in PARTICIPANTS}
    operator = dict(cluster.security.operator) if cluster.security else {}
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.order.admin", "audit", "--json"),
        env=os.environ | urls | operator | {"ORDER_DATABASE_URL": cluster.database.as_role("order_service")},
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await program.communicate()
    if program.returncode not in (0, 4):
        return f"ended with {program.returncode}", [out.decode()]
    findings = json.loads(out)["findings"]
    return "clean" if program.returncode == 0 else f"{len(findings)} findings", findings
