"""Customers buy while everything fails: every answer is true, nothing is lost, all sagas end.

A short run by default; `make faults SECONDS=600 SEED=7` is a long one. The seed is printed.
"""

import asyncio
import json
import os
import random
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.faults.checker import contradictions, read_orders, unpublished
from tests.faults.cluster import PARTICIPANTS, Cluster, cluster
from tests.faults.customers import Customers
from tests.faults.process import REPOSITORY
from tests.faults.schedule import Faults
from tests.infrastructure.books import violations
from tests.infrastructure.broker import why_no_maven
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sagas import DUE, sagas_ended

SECONDS = float(os.environ.get("FAULTS_SECONDS", "9"))
SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**9))
LONG = SECONDS > 30
CUSTOMERS = 60 if LONG else 16
# A real broker may be killed too, but its start takes a quarter of a short run.
REAL_BROKER = LONG and why_no_maven() is None
PAUSE_SECONDS = 1.0 if LONG else 0.45  # from fault to fault; several overlap
HEALED_SECONDS = 60  # the promised time within which every saga ends
# A log must not have these: bugs, dead tasks, and findings of the audits that ran at the same time.
BAD = re.compile(
    r'"event": ?"(request\.failed|saga\.run_failed|task\.died|audit\.violation_found|command\.execution_failed)"'
    r'|"loop".*"exception"'
)


@pytest.mark.timeout(SECONDS * 2 + 300)
async def test_no_fault_makes_an_answer_or_the_books_wrong(reaper: Reaper, tmp_path: Path) -> None:
    print(f"FAULTS_SEED={SEED} FAULTS_SECONDS={SECONDS:g}")
    rng = random.Random(SEED)
    began = time.monotonic()
    broker = OwnBroker(reaper) if REAL_BROKER else None
    async with cluster(reaper, tmp_path, broker=broker, forked=not LONG, ORDER_PAYMENT_TIMEOUT_SECONDS="2") as made:
        customers, faults = Customers(made, rng), Faults(made, random.Random(SEED + 1))
        await customers.prepare()
        print(f"{time.monotonic() - began:.1f} s: everything serves")
        shopping = asyncio.create_task(customers.shop(CUSTOMERS))
        striking = asyncio.create_task(faults.run(SECONDS, PAUSE_SECONDS))
        try:
            await asyncio.wait({shopping, striking}, return_when=asyncio.FIRST_COMPLETED)
            striking.result()
            healed = time.monotonic()
            customers.closing.set()
            print(f"{healed - began:.1f} s: everything is healed")
            await until_idle(made, HEALED_SECONDS)
            print(f"{time.monotonic() - began:.1f} s: {time.monotonic() - healed:.1f} s later every saga has ended")
            await shopping
        finally:
            shopping.cancel()
            striking.cancel()
        await until_idle(made, HEALED_SECONDS)
        report(customers, faults)
        lines = await wrong(made, customers, faults)
        assert not lines, "\n".join(lines)
        print(f"{time.monotonic() - began:.1f} s: everything is compared")


async def until_idle(made: Cluster, seconds: float) -> None:
    """Wait until no saga is live and no order waits for its expiry."""
    connection = await asyncpg.connect(made.database.url)
    try:
        await sagas_ended(connection, seconds, DUE)
    finally:
        await connection.close()


def report(customers: Customers, faults: Faults) -> None:
    """Print what happened."""
    statuses = Counter(
        "none" if reply.answer is None else str(reply.answer.status)
        for one in customers.purchases
        for reply in one.replies
    )
    print(f"{len(customers.purchases)} purchases; answers {dict(sorted(statuses.items()))}")
    print(faults.report())
    strikes = sum(len(hits) for hits in faults.hits.values())
    print(f"{strikes} faults hit {sum(sum(hits) for hits in faults.hits.values())} live sagas")


async def wrong(made: Cluster, customers: Customers, faults: Faults) -> list[str]:
    """Return a line for every broken promise."""
    lines = [f"{name} struck {len(hits)} times and hit nothing" for name, hits in missed(faults)]
    lines += contradictions(customers.purchases, await read_orders(made.database.url))
    lines += await violations(made.database.url)
    lines += await unpublished(made.broker.address, made.database.url, once=REAL_BROKER)
    for name, log in made.logs().items():
        lines += [f"{name} logged {line}" for line in log.splitlines() if is_bad(line)]
    audit = await audited(made)
    return lines if audit["clean"] else [*lines, f"the audit found {audit['findings']}"]


def is_bad(line: str) -> bool:
    """Return whether a line of a log must not be there."""
    # aiokafka removes a batch twice if its producer was dropped; that producer is not used any more.
    dropped = "Exception in callback" in line and "aiokafka/producer/message_accumulator.py" in line
    return bool(BAD.search(line)) or ("Traceback" in line and not dropped)


def missed(faults: Faults) -> Iterator[tuple[str, list[int]]]:
    """Return the kinds of fault that hit no live saga, although they had several chances."""
    if not any(sum(hits) for hits in faults.hits.values()):
        yield "everything", []
    for name, hits in faults.hits.items():
        if len(hits) >= 5 and not any(hits):
            yield name, hits


async def audited(made: Cluster) -> dict[str, object]:
    """Return the result of the operators' command."""
    urls = {f"ORDER_{name.upper()}_URL": made.processes[name].url for name in PARTICIPANTS}
    url = made.database.as_role("order_service")
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.order.admin", "audit", "--json"),
        env=made.environment | urls | {"ORDER_DATABASE_URL": url},
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await program.communicate()
    found: dict[str, object] = json.loads(out)
    assert program.returncode == (0 if found["clean"] else 4)
    return found
