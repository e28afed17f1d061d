"""Judges a drill when its load has ended: lost orders, books, the consumer's records, the operators' audit."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from tests.drills.load import Purchase
from tests.faults.cluster import PARTICIPANTS, Cluster
from tests.faults.process import REPOSITORY
from tests.infrastructure.books import violations
from tests.infrastructure.sagas import UNPUBLISHED, sagas_ended
from tests.infrastructure.waiting import eventually

ENDED_SECONDS = 60  # the promised time within which every saga ends
CONSUMED_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """The orders that are lost, the audit's result in words, and everything else that is wrong."""

    lost: Sequence[str]
    audit: str
    wrong: Sequence[str]


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


async def judge(cluster: Cluster, purchases: Sequence[Purchase]) -> Verdict:
    """Wait until all sagas have ended and all events are consumed, then compare everything. Raises DeadlineError."""
    connection = await asyncpg.connect(cluster.database.url)
    try:
        await sagas_ended(connection, ENDED_SECONDS, UNPUBLISHED)
        query = "SELECT order_id::text, status FROM orders.orders"
        orders = {row["order_id"]: row["status"] for row in await connection.fetch(query)}
        missing = lost(purchases, orders)
        bought = [one.order_id for one in purchases if one.is_acknowledged and one.order_id not in missing]

        async def consumed() -> bool:
            query = "SELECT count(*) FROM platform.orders WHERE order_id = ANY ($1::uuid[]) AND status = 'PAID'"
            return bool(await connection.fetchval(query, bought) == len(bought))

        await eventually(consumed, CONSUMED_SECONDS, "the consumer's records")
    finally:
        await connection.close()
    audit, findings = await audited(cluster)
    wrong = [f"{len(missing)} orders are lost: {missing[:3]}"] if missing else []
    books = await violations(cluster.database.url)
    wrong += [f"the books: {len(books)} lines, {books[0]}"] if books else []
    wrong += [f"the audit: {findings}"] if findings else []
    return Verdict(missing, audit, wrong)


async def audited(cluster: Cluster) -> tuple[str, Sequence[object]]:
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
