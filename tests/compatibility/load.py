"""Customers of two order replicas behind a balancer: they never repeat a call, so that every failure is seen."""

import asyncio
from collections import Counter
from itertools import cycle
from typing import Any

import aiohttp

from tests.faults.cluster import REPLICAS, Cluster
from tests.infrastructure.shopping import new_id
from tests.infrastructure.waiting import eventually

FLOWS = ("now", "now with a coupon", "refunded", "paid later", "cancelled", "left to expire")
CUSTOMERS = 4
USERS = 8
COUPONS = 5000
ANSWER_SECONDS = 60  # while a participant is away, a saga waits for it
WORKING = {"PLACING", "PAYING"}


class Load:
    """Customers who buy in every way. `failures`: a line for each call that no customer should see."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._open = list(REPLICAS)
        self._calls: Counter[str] = Counter()
        self._turn = 0
        self._users: list[str] = []
        self._product = ""
        self._coupons: list[tuple[str, str]] = []
        self._round = 0
        self._covered: set[str] = set()
        self._closing = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.calls = 0
        self.failures: list[str] = []

    async def prepare(self, coupons: int) -> None:
        """Create what is bought, and users with money and coupons."""
        shop = self._cluster.shop()
        self._product = new_id("product")
        body = {"product_id": self._product, "name": "Tea", "price": 10, "stock": 10**9}
        await shop.product.post("/v1/products", body)
        self._users = [new_id("user") for _ in range(USERS)]
        for user in self._users:
            await shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 10**9})
        for number in range(coupons):
            user = self._users[number % USERS]
            coupon = {"coupon_id": new_id("coupon"), "user_id": user, "kind": "percent", "value": 10}
            await shop.coupon.post("/v1/coupons", coupon)
            self._coupons.append((user, str(coupon["coupon_id"])))

    async def run(self) -> None:
        """Let customers buy until `close`."""
        flows = cycle(FLOWS)
        async with asyncio.TaskGroup() as group:
            for _ in range(CUSTOMERS):
                group.create_task(self._customer(flows))

    def close(self) -> None:
        """Let each customer end the purchase that is under way."""
        self._closing.set()

    async def each_way_once(self) -> None:
        """Return when a purchase of each way that ends at once was made from beginning to end since now."""
        self._round += 1
        self._covered = set()

        async def covered() -> bool:
            return self._covered >= set(FLOWS[:-1]) or bool(self.failures)

        await eventually(covered, ANSWER_SECONDS, f"a purchase of each way, after {self._covered}")

    async def take_out(self, replica: str) -> None:
        """Send a replica no more calls, and return when it has none under way."""
        if replica in self._open:
            self._open.remove(replica)

            async def idle() -> bool:
                return not self._calls[replica]

            await eventually(idle, ANSWER_SECONDS, f"the last answer of {replica}")

    def put_back(self, replica: str) -> None:
        """Send a replica calls again."""
        if replica in REPLICAS:
            self._open.append(replica)

    async def _customer(self, flows: Any) -> None:
        while not self._closing.is_set():
            flow, begun = next(flows), self._round
            await self._buy(flow)
            self.done[flow] += 1
            if begun == self._round:
                self._covered.add(flow)

    async def _buy(self, flow: str) -> None:
        user, coupon = self._users[self.calls % USERS], None
        if flow == "now with a coupon" and self._coupons:
            user, coupon = self._coupons.pop()
        later = flow in ("paid later", "cancelled", "left to expire")
        order: dict[str, Any] = {"user_id": user, "lines": [{"product_id": self._product, "quantity": 2}]}
        order |= {"payment": "later"} if later else {}
        placed = await self._call(flow, "/v1/orders", order | ({} if coupon is None else {"coupon_id": coupon}))
        if placed is None:
            return
        path = f"/v1/orders/{placed['order_id']}"
        await self._settled(flow, path, "PENDING_PAYMENT" if later else "PAID")
        if flow == "paid later" and await self._call(flow, f"{path}/payment") is not None:
            await self._settled(flow, path, "PAID")
        if flow in ("cancelled", "refunded") and await self._call(flow, f"{path}/cancel") is not None:
            await self._settled(flow, path, "CANCELLED" if later else "REFUNDED")

    async def _settled(self, flow: str, path: str, status: str) -> None:
        """Wait until an order's saga has ended; its status then has to be the one that the customer wants."""
        seen: dict[str, Any] = {}

        async def settled() -> bool:
            found = await self._call(flow, path, method="GET")
            seen.update(found or {})
            return found is None or not (found.get("closing") or found["status"] in WORKING)

        await eventually(settled, ANSWER_SECONDS, f"the end of {path}")
        # An order that waited for a participant may have expired before its customer paid.
        if seen.get("status") not in (status, "EXPIRED" if flow in FLOWS[3:] else status):
            self.failures.append(f"{flow}: the order is {seen.get('status')}, not {status}: {seen.get('reason')}")

    async def _call(self, flow: str, path: str, body: Any = None, method: str = "POST") -> dict[str, Any] | None:
        self.calls += 1
        self._turn += 1
        replica = self._open[self._turn % len(self._open)]
        self._calls[replica] += 1
        try:
            answer = await self._cluster.client(replica).call(method, path, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failures.append(f"{flow}: {method} {path} at {replica}: {error!r}")
            return None
        finally:
            self._calls[replica] -= 1
        if answer.status in (200, 201, 202):
            found: dict[str, Any] = answer.body
            return found
        if not (answer.status == 409 and answer.problem in ("order-expired", "order-not-payable")):
            self.failures.append(f"{flow}: {method} {path} at {replica}: {answer.status} {answer.body}")
        return None
