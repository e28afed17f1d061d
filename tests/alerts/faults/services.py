"""Faults of services: one hangs, is killed, is called too often, or has a wrong clock or no reader of its log."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from shared.contracts.commands import COMMANDS_MAX, COMMANDS_PATH
from shared.participant.executor import QUEUE_MAX
from tests.alerts.faults.platform import Platform
from tests.alerts.faults.postgres import locked
from tests.alerts.faults.scale import SCRAPE_SECONDS
from tests.alerts.faults.situation import Situation
from tests.infrastructure.shopping import an_order
from tests.infrastructure.waiting import eventually

LATE_SECONDS = 30.0
UNPAID = 12  # more than may expire at the same time
WRONG_SECONDS = 20.0


@asynccontextmanager
async def a_participant_hangs(platform: Platform) -> AsyncIterator[None]:
    """Stop the balance service. Of the sagas that wait, one is of a later version, as after a rolled back upgrade."""
    balance = platform.cluster.processes["balance"]
    later = "UPDATE orders.sagas SET version = version + $1 WHERE saga_id = $2"
    saga_id = None

    async def waiting() -> object:
        return await platform.operator.fetchval(
            "SELECT saga_id FROM orders.sagas"
            " WHERE status = 'RUNNING' AND started_at < now() - make_interval(secs => $1) LIMIT 1",
            2 * SCRAPE_SECONDS,
        )

    balance.send(signal.SIGSTOP)
    try:
        # Together as many at each order replica as it may run sagas. The first answers of the second half come later
        # than those of the first, because a rate does not count the first value of a series.
        async with platform.ordering(16):
            saga_id = await eventually(waiting, LATE_SECONDS, "a saga that waits")
            await platform.operator.execute(later, 100, saga_id)
            async with platform.ordering(16):
                yield
    finally:
        await platform.operator.execute(later, -100, saga_id)
        balance.send(signal.SIGCONT)


@asynccontextmanager
async def a_participant_is_down(platform: Platform) -> AsyncIterator[None]:
    """Kill the product service while orders wait to be paid, and then expire."""
    user, product = platform.load.a_customer()
    orders = [an_order(user, product, payment="later") for _ in range(UNPAID)]
    replicas = [platform.cluster.client(name) for name in ("order-1", "order-2")]
    placed = [replicas[number % 2].post("/v1/orders", order) for number, order in enumerate(orders)]
    await asyncio.gather(*placed)
    await platform.killed("product")
    try:
        yield
    finally:
        await platform.started("product")


@asynccontextmanager
async def a_service_is_too_slow(platform: Platform) -> AsyncIterator[None]:
    """Lock the products, and send more reads than connections, and more commands than the queue takes."""
    product = platform.cluster.client("product")
    calls = QUEUE_MAX // COMMANDS_MAX + 3

    async def command() -> None:
        lines = [{"product_id": "none", "quantity": 1}]
        commands = [
            {"type": "hold_stock", "order_id": str(uuid.uuid4()), "attempt": 0, "lines": lines}
            for _ in range(COMMANDS_MAX)
        ]
        await product.call("POST", COMMANDS_PATH, {"commands": commands})

    async def read() -> None:
        await product.call("GET", "/v1/products")

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked(platform, "products.products"))
        await stack.enter_async_context(platform.calling(command, calls))
        await stack.enter_async_context(platform.calling(read, 12))
        yield


@asynccontextmanager
async def too_many_connect(platform: Platform) -> AsyncIterator[None]:
    """Open as many connections as the spare replica allows, and again when it closes them."""

    async def connect() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.spare.process.port)
        try:
            await reader.read()  # to its end: the service ends a connection that sends nothing
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async with platform.calling(connect, 90):
        yield


@asynccontextmanager
async def nobody_reads_the_log(platform: Platform) -> AsyncIterator[None]:
    """End the reader of the spare replica's log."""
    platform.spare.log.leave()
    try:
        async with platform.calling(platform.spare.ask, 2):
            yield
    finally:
        platform.spare.log.read()


@asynccontextmanager
async def a_clock_is_wrong(platform: Platform) -> AsyncIterator[None]:
    """Start the coupon service again on a host whose clock is ahead."""
    coupon = platform.cluster.processes["coupon"]
    command, environment = coupon.command, coupon.environment
    await platform.killed("coupon")
    coupon.command = [*command[:2], "tests.faults.wrong_clock", *command[2:]]
    coupon.environment = {**environment, "CLOCK_OFF_SECONDS": str(WRONG_SECONDS)}
    try:
        await platform.started("coupon")
        yield
        await platform.killed("coupon")
    finally:
        coupon.command, coupon.environment = command, environment
        await platform.started("coupon")


SITUATIONS = [
    Situation(
        "a participant hangs",
        a_participant_hangs,
        {
            "TargetDown": {"job": "balance", "instance": "{balance}"},
            "ServiceDown": {"job": "balance"},
            "ParticipantUnavailable": {"participant": "balance"},
            "AnswersSlow": {"job": "order"},
            "SagasOld": {},
            "SagasNearLimit": {"instance": "{order-1}"},
            "SagasUnknownVersion": {},
        },
    ),
    Situation("a participant is down", a_participant_is_down, {"SagasStuck": {}, "ExpiryBehind": {}}),
    Situation(
        "a service gets more than it can process",
        a_service_is_too_slow,
        {
            "PoolExhausted": {
                "job": "product",
                "instance": "{product}",
                "db_client_connection_pool_name": "product",
            },
            "QueueFull": {"job": "product", "batcher": "commands"},
        },
    ),
    Situation(
        "many clients connect",
        too_many_connect,
        {"HttpConnectionsNearLimit": {"job": "product", "instance": "{product-2}", "listener": "product"}},
    ),
    Situation(
        "nobody reads a log", nobody_reads_the_log, {"LogLinesLost": {"job": "product", "instance": "{product-2}"}}
    ),
    Situation("a clock is wrong", a_clock_is_wrong, {"ClockWrong": {"job": "coupon", "instance": "{coupon}"}}),
]
