"""Two order replicas with the largest allowed clock errors, one fast and one slow: owners, winners, and the books."""

import asyncio
import os
import random
import re
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from shared.postgres.clocks import SKEW_MAX_SECONDS
from tests.faults.checker import contradictions, read_orders, unpublished
from tests.faults.cluster import LEASE_SECONDS, PARTICIPANTS, REPLICAS, Cluster, cluster
from tests.faults.customers import Customers
from tests.faults.races import race, winners
from tests.infrastructure.books import violations
from tests.infrastructure.broker import why_no_maven
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.proxy import Mode
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sagas import UNPAID, sagas_ended
from tests.infrastructure.services import Answer
from tests.infrastructure.shopping import a_product, a_user, an_order, new_id
from tests.infrastructure.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]
SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**9))
RACES = int(os.environ.get("RACES") or 150)
DROPPED = int(os.environ.get("DROPPED") or 1000)
LONG = RACES > 1000
# The embedded broker drops the oldest events of a long run.
REAL_BROKER = LONG and why_no_maven() is None
TIMEOUT_SECONDS = 2.0
# Much longer than any lease or time to pay here; with a larger error, services are not ready.
OFF_SECONDS = SKEW_MAX_SECONDS - 60
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename <> 'postgres' AND "
HELD = re.compile(r"^(http_requests_in_flight|sagas_running|batch_waiting(?:\{\S*)?) (\S+)$", re.MULTILINE)
CLOCKS = {
    "order-1": OFF_SECONDS,
    "order-2": -OFF_SECONDS,
    "product": -OFF_SECONDS,
    "coupon": OFF_SECONDS,
    "balance": OFF_SECONDS / 2,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The processes, with wrong clocks."""
    folder = tmp_path_factory.mktemp("replicas")
    async with cluster(
        reaper,
        folder,
        CLOCKS,
        broker=OwnBroker(reaper) if REAL_BROKER else None,
        ORDER_PAYMENT_TIMEOUT_SECONDS=str(TIMEOUT_SECONDS),
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def db(made: Cluster) -> AsyncIterator[asyncpg.Pool]:
    """Return a pool of a superuser's connections."""
    async with asyncpg.create_pool(made.database.url, min_size=0, max_size=2) as pool:
        yield pool


async def customers_of(made: Cluster) -> Customers:
    """Return customers, with all products in stock."""
    customers = Customers(made, random.Random(SEED))
    await customers.prepare()
    return customers


async def nothing_is_wrong(made: Cluster, *crowds: Customers) -> None:
    """Compare all answers, books and events."""
    purchases = [purchase for customers in crowds for purchase in customers.purchases]
    users = {purchase.user for purchase in purchases}
    orders = [order for order in await read_orders(made.database.url) if order["user_id"] in users]
    assert contradictions(purchases, orders) == []
    assert await violations(made.database.url) == []
    if REAL_BROKER or not LONG:
        assert await unpublished(made.broker.address, made.database.url, once=REAL_BROKER) == []


async def test_payment_cancellation_and_expiry_race_has_one_winner_with_wrong_clocks(
    made: Cluster, db: asyncpg.Pool
) -> None:
    print(f"FAULTS_SEED={SEED} RACES={RACES}")
    customers = await customers_of(made)
    races = await race(customers, random.Random(SEED), RACES, TIMEOUT_SECONDS)
    await sagas_ended(db, 60, UNPAID)
    won, odd = await winners(made.database.url, races)
    print(f"winners: {dict(won)}")
    assert odd == []
    assert won.total() == RACES
    assert set(won) == {"PAID", "CANCELLED", "EXPIRED"}, "each had its chances"
    await nothing_is_wrong(made, customers)
    # The clocks were really wrong, and each replica's ids still have the database's time.
    for name in REPLICAS:
        async with made.sessions[name].get("/metrics") as response:
            skew = re.search(r"^host_clock_skew_seconds (\S+)$", await response.text(), re.MULTILINE)
        assert skew
        assert float(skew[1]) == pytest.approx(CLOCKS[name], abs=5)
    rows = await db.fetch("SELECT order_id, created_at FROM orders.orders")
    off = [(row["order_id"].int >> 80) / 1000 - row["created_at"].timestamp() for row in rows]
    assert max(map(abs, off)) < 60


async def test_replica_paused_past_its_lease_loses_its_sagas_and_does_no_harm(made: Cluster, db: asyncpg.Pool) -> None:
    first, way = made.processes["order-1"], made.ways["order-1→balance"]
    shop = made.shop("order-1")
    product, user = await a_product(shop), await a_user(shop)
    way.set(Mode.DEAF)  # the debits arrive, but the replica gets no answer before it is paused
    calls = [asyncio.create_task(shop.order.call("POST", "/v1/orders", an_order(user, product))) for _ in range(40)]
    mine = "SELECT count(*) FROM orders.sagas JOIN orders.orders USING (order_id) WHERE user_id = $1 AND {}"
    debited = "SELECT count(*) > 0 FROM balances.entries WHERE user_id = $1 AND kind = 'debit'"
    try:

        async def under_way() -> bool:
            live = await db.fetchval(mine.format("sagas.status = 'RUNNING'"), user)
            return bool(live == len(calls) and await db.fetchval(debited, user))

        await eventually(under_way, 10, "all sagas under way")
        first.send(signal.SIGSTOP)

        async def ended() -> bool:
            return bool(await db.fetchval(mine.format("sagas.status = 'DONE'"), user) == len(calls))

        # The lease, a sweep, and the work; the paused replica still has its share of locks and connections.
        await eventually(ended, LEASE_SECONDS + 10, "the sagas ended by the other replica")
        owners = await db.fetch("SELECT DISTINCT owner FROM orders.sagas JOIN orders.orders USING (order_id) "
                                "WHERE user_id = $1", user)  # fmt: skip
        assert len(owners) == 1
    finally:
        way.set(Mode.OPEN)
        first.send(signal.SIGCONT)
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, aiohttp.ClientError | TimeoutError) or (
            not isinstance(answer, BaseException) and answer.status in (201, 202)
        ), answer
    await first.ready()
    await sagas_ended(db, 20, UNPAID)
    assert (await shop.balance.get(f"/v1/accounts/{user}"))["balance"] == 1_000_000 - 100 * len(calls)
    assert await violations(made.database.url) == []


@pytest.mark.parametrize(("balance", "status"), [(1_000_000, 201), (0, 400)])
async def test_key_used_before_a_crash_gets_the_same_answer_at_every_replica(
    made: Cluster, db: asyncpg.Pool, balance: int, status: int
) -> None:
    first, way = made.processes["order-1"], made.ways["order-1→balance"]
    shop = made.shop("order-1")
    product, user = await a_product(shop), await a_user(shop, balance)
    headers = {"Idempotency-Key": new_id("key")}

    async def ask(name: str, *products: str) -> Answer:
        return await made.client(name).call("POST", "/v1/orders", an_order(user, *products), headers=headers)

    way.set(Mode.CLOSED)
    asking = asyncio.create_task(ask("order-1", product))

    async def begun() -> bool:
        return bool(await db.fetchval("SELECT count(*) FROM orders.orders WHERE user_id = $1", user))

    try:
        await eventually(begun, 10, "the order")
        first.send(signal.SIGKILL)
        await first.ended()
        with pytest.raises(aiohttp.ClientError):
            await asking
        assert (await ask("order-2", product)).problem == "idempotency-in-progress"
    finally:
        way.set(Mode.OPEN)
        first.start()

    async def answered() -> bool:
        return (await ask("order-2", product)).status == status

    await eventually(answered, LEASE_SECONDS + 10, "the answer at the other replica")
    await first.ready()
    answers = [await ask(name, product) for name in (*REPLICAS, *REPLICAS)]
    assert {(answer.status, str(answer.body)) for answer in answers} == {(status, str(answers[0].body))}
    assert await db.fetchval("SELECT count(*) FROM orders.orders WHERE user_id = $1", user) == 1
    for name in REPLICAS:
        assert (await ask(name, product, await a_product(shop))).problem == "idempotency-key-reused"


async def test_rolling_restart_under_load_costs_clients_at_most_a_retry(made: Cluster, db: asyncpg.Pool) -> None:
    customers = await customers_of(made)
    shopping = asyncio.create_task(customers.shop(12))

    async def placed(count: int) -> None:
        async def enough() -> bool:
            assert not shopping.done(), shopping.result()
            return len(customers.purchases) >= count

        await eventually(enough, 60, f"{count} purchases")

    for name in REPLICAS:
        await placed(len(customers.purchases) + 25)
        process = made.processes[name]
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        process.start()
        await process.ready()
    await placed(len(customers.purchases) + 25)
    customers.closing.set()
    await shopping
    await sagas_ended(db, 20, UNPAID)
    replies = [reply for one in customers.purchases for reply in one.replies]
    answers = Counter(one.failure or str(one.answer and one.answer.status) for one in replies)
    print(f"{len(customers.purchases)} purchases, answers {dict(answers)}")
    # If the system has accepted a connection and the process has not, closing the listener resets it, unread.
    unread = answers.pop("ClientOSError", 0) + answers.pop("ServerDisconnectedError", 0)
    # If work in progress were dropped, most of the twelve customers would notice at each of the two restarts.
    assert unread <= 6
    assert set(answers) <= {"200", "201", "400", "404", "409", "202", "503", "ClientConnectorError"}
    await nothing_is_wrong(made, customers)


async def test_connections_dropped_mid_request_leave_nothing_behind(made: Cluster, db: asyncpg.Pool) -> None:
    rng = random.Random(SEED)
    shop = made.shop()
    product, user = await a_product(shop), await a_user(shop, 10**9)
    places = asyncio.Semaphore(100)

    async def drop() -> None:
        async with places:
            url = urlsplit(made.processes[rng.choice(REPLICAS)].url)
            body = b'{"user_id":"%s","lines":[{"product_id":"%s","quantity":1}]}' % (user.encode(), product.encode())
            head = (
                b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            request = head % len(body) + body
            with suppress(OSError):
                _, writer = await asyncio.open_connection(url.hostname, url.port)
                writer.write(request if rng.random() < 0.8 else request[: rng.randrange(len(request))])
                await writer.drain()
                await asyncio.sleep(rng.uniform(0, 0.05))
                writer.transport.abort()

    await asyncio.gather(*(drop() for _ in range(DROPPED)))
    await sagas_ended(db, 60, UNPAID)
    await eventually(lambda: at_the_floor(made, db), 20, "pools at their floor")
    orders = await db.fetchval("SELECT count(*) FROM orders.orders WHERE user_id = $1", user)
    print(f"{DROPPED} connections dropped, {orders} orders begun by them")
    assert orders > 0
    assert await violations(made.database.url) == []


async def at_the_floor(made: Cluster, db: asyncpg.Pool) -> bool:
    """Return whether no request, saga or batch is in progress, and no session is in a transaction."""
    in_transaction = await db.fetchval(f"{SESSIONS} state LIKE 'idle in transaction%'")
    sessions = await db.fetchval(f"{SESSIONS} state IS NOT NULL")
    for name in (*REPLICAS, *PARTICIPANTS):
        async with made.sessions[name].get("/metrics") as response:
            found = {metric: float(value) for metric, value in HELD.findall(await response.text())}
        found["http_requests_in_flight"] -= 1  # this one
        if any(found.values()):
            return False
    # A replica has a pool of four, two sessions, and one connection each for lease and readiness; a participant has a
    # pool and two sessions; the relay has a few.
    return bool(in_transaction == 0 and sessions <= 2 * 8 + 3 * 6 + 9)
