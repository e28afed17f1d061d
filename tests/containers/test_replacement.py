"""The image of one service is replaced alone while customers order, and no request fails."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.containers.engine import COMPOSE_FILE, PROJECT, REPOSITORY, SERVICES, Platform, build
from tests.infrastructure.waiting import eventually

NEXT = "test-next"
CUSTOMERS = 4
PAUSE_SECONDS = 0.2  # between a customer's orders: below the limits of the gateway and of one caller
ORDERS_BEFORE, ORDERS_AFTER = 20, 40
LOAD_SECONDS = 60
UPGRADE_SECONDS = 240


class Load:
    """Customers who order one pen again and again, and read each order. Counts the statuses of all answers.

    `failures`: a line for each call without a success.
    """

    def __init__(self, url: str) -> None:
        self.answers: Counter[int | str] = Counter()
        self.failures: list[str] = []
        self.orders: dict[str, str] = {}
        self._url = url

    async def order(self, token: str) -> None:
        """Order until cancelled."""
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(self._url, headers=headers) as session:
            while True:
                placed = await self._call(session, "POST", "/v1/orders", {"lines": LINES})
                if placed is not None:
                    self.orders[placed["order_id"]] = token
                    await self._call(session, "GET", f"/v1/orders/{placed['order_id']}")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _call(
        self, session: aiohttp.ClientSession, method: str, path: str, body: object = None
    ) -> dict[str, str] | None:
        try:
            async with session.request(method, path, json=body) as answer:
                self.answers[answer.status] += 1
                if answer.ok:
                    return dict(await answer.json())
                self.failures.append(f"{answer.headers.get('X-Request-Id')}: {answer.status} {await answer.text()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.answers[repr(error)] += 1
            self.failures.append(repr(error))
        return None

    async def further(self, count: int) -> None:
        """Wait until so many further orders have been placed."""
        enough = len(self.orders) + count

        async def placed() -> bool:
            return len(self.orders) >= enough

        await eventually(placed, LOAD_SECONDS, f"{count} further orders, of answers {self.answers}")


LINES = [{"product_id": "pencil", "quantity": 1}]


@asynccontextmanager
async def load(platform: Platform) -> AsyncIterator[Load]:
    """Let customers order while the body runs."""
    url = f"http://{platform.environment['GATEWAY_ADDRESS']}"
    tokens = {f"customer-{number}": platform.token(f"customer-{number}") for number in range(CUSTOMERS)}
    shop = {"Authorization": f"Bearer {platform.token('shop', 'catalog:write accounts:charge')}"}
    async with aiohttp.ClientSession(url, headers=shop, raise_for_status=True) as session:
        product = {"product_id": "pencil", "name": "Pencil", "price": 1, "stock": 1_000_000}
        await session.post("/v1/products", json=product)
        for name in tokens:
            await session.post(f"/v1/accounts/{name}/charges", json={"amount": 1_000_000})
    load = Load(url)
    customers = [asyncio.create_task(load.order(token)) for token in tokens.values()]
    try:
        yield load
    finally:
        for customer in customers:
            customer.cancel()
        await asyncio.gather(*customers, return_exceptions=True)


async def upgraded(platform: Platform, service: str) -> None:
    """Replace the replicas as docs/runbook.md says."""
    options = ["--file", str(COMPOSE_FILE), "--project-name", PROJECT]
    variables = {**os.environ, **platform.environment, "VERSION": NEXT}
    upgrade = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.upgrade", *options, service),
        cwd=REPOSITORY,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(upgrade.communicate(), UPGRADE_SECONDS)
    assert upgrade.returncode == 0, output.decode()


def running_images(platform: Platform, names: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the image and the id of each container, by service."""
    return {name: [(one["Config"]["Image"], one["Id"]) for one in platform.replicas(name)] for name in names}


def gateway_lines(platform: Platform, failures: Sequence[str]) -> str:
    """Return the lines of the gateway's log about these failures: which replica it asked, and what that answered."""
    ids = {line.partition(":")[0] for line in failures}
    lines = platform.compose("logs", "--no-color", "gateway").splitlines()
    return "\n".join(line for line in lines if any(one in line for one in ids))


@pytest.mark.timeout(UPGRADE_SECONDS + 3 * LOAD_SECONDS)
async def test_a_replaced_image_of_one_service_fails_no_request(images: Mapping[str, str], platform: Platform) -> None:
    assert images
    others = [*(name for name in SERVICES if name != "order"), "gateway", "consumer", "postgres", "kafka"]
    before = running_images(platform, others)
    await asyncio.to_thread(build, "order", NEXT)
    async with load(platform) as customers:
        await customers.further(ORDERS_BEFORE)
        await upgraded(platform, "order")
        await customers.further(ORDERS_AFTER)
    answers = customers.answers
    print(f"replaced the order service: {answers.total()} requests, {len(customers.failures)} failed; {answers}")
    assert customers.failures == [], gateway_lines(platform, customers.failures)
    assert [image for image, _ in running_images(platform, ["order"])["order"]] == [f"order-platform/order:{NEXT}"] * 2
    assert running_images(platform, others) == before
