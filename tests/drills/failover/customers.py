"""Customers who pay now and later without a pause, and keep every answer with its time."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.drills.load import Clients, LoadAtReplicas, Purchase
from tests.faults.cluster import REPLICAS
from tests.infrastructure.services import Answer, Client
from tests.infrastructure.shopping import new_id

CUSTOMERS = 8
PAUSE_SECONDS = 0.2  # after an order: some 30 orders a second, which leaves the machine time for a failover
AGAIN_SECONDS = 0.25  # before a request is repeated; shorter than Retry-After, to see the end of a failover
PATIENCE_SECONDS = 120
# A repetition while the first request is in flight; with Retry-After.
IN_PROGRESS = "409 in progress"
# What a customer may be told while no Postgres takes writes; 503 only with Retry-After.
ALLOWED = ("200", "201", "202", "503", IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Told:
    """One answer; `status` has an error's name if there was no answer."""

    first: float  # when the same was asked for the first time
    at: float
    status: str
    places: bool  # whether the request was for a new order
    why: str = ""  # who answered with what, if it is no success


@dataclass(slots=True)
class Customers:
    """Buy at both order replicas alternately, until `end` is called."""

    load: LoadAtReplicas
    clients: Clients
    purchases: list[Purchase] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    sold: dict[str, float] = field(default_factory=dict)  # when each replica last sold something
    _turns: "itertools.cycle[str]" = field(default_factory=lambda: itertools.cycle(REPLICAS))
    _ends: asyncio.Event = field(default_factory=asyncio.Event)

    async def buy(self) -> None:
        """Return when `end` was called and all orders have their final answers."""
        async with asyncio.TaskGroup() as group:
            for number in range(CUSTOMERS):
                group.create_task(self._customer(*self.load.a_customer(number), later=number % 2 == 1))

    def end(self) -> None:
        """Let no customer begin another order."""
        self._ends.set()

    async def _customer(self, user: str, product: str, *, later: bool) -> None:
        while not self._ends.is_set():
            purchase = Purchase()
            self.purchases.append(purchase)
            body = {"user_id": user, "lines": [{"product_id": product, "quantity": 1}]}
            body |= {"payment": "later" if later else "now"}
            await self._insist("/v1/orders", body, purchase)
            if later:
                await self._insist(f"/v1/orders/{purchase.order_id}/payment", None, purchase)
            assert purchase.is_acknowledged, purchase
            await asyncio.sleep(PAUSE_SECONDS)

    async def _insist(self, path: str, body: object, purchase: Purchase) -> None:
        """Repeat a request with its key until the answer is final. Nothing but 200 and 201 is, for these customers."""
        headers = {"Idempotency-Key": new_id("key")}
        first = time.monotonic()
        deadline = first + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            replica = next(self._turns)
            answer = await _sent(self.clients(replica), path, body, headers)
            self._keep(first, answer, replica, places=body is not None)
            if isinstance(answer, Answer):
                if answer.status < 300:
                    purchase.order_id, purchase.status = answer.body["order_id"], answer.body["status"]
                if answer.status in (200, 201):
                    return
            await asyncio.sleep(AGAIN_SECONDS)
        raise AssertionError(f"no final answer within {PATIENCE_SECONDS} s: {counted(self.told[-200:])}")

    def _keep(self, first: float, answer: Answer | str, replica: str, *, places: bool) -> None:
        at = time.monotonic()
        if not isinstance(answer, Answer):
            self.told.append(Told(first, at, answer, places))
            return
        status = str(answer.status)
        if status == "503" and "Retry-After" not in answer.headers:
            status = "503 without Retry-After"
        elif status == "409" and "Retry-After" in answer.headers:
            status = IN_PROGRESS
        elif status not in ALLOWED:
            status = f"{status} {answer.body.get('type')}"
        why = f"{replica}: {answer.body.get('detail')}" if answer.status >= 300 else ""
        self.told.append(Told(first, at, status, places, why))
        if answer.status in (200, 201):
            self.sold[replica] = at


async def _sent(client: Client, path: str, body: object, headers: dict[str, str]) -> Answer | str:
    try:
        return await client.call("POST", path, body, headers=headers)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return type(error).__name__


def counted(told: Sequence[Told]) -> dict[str, int]:
    """Return how often each status was told."""
    return dict(sorted(Counter(one.status for one in told).items()))


def seconds_without(told: Sequence[Told], since: float) -> float:
    """Return the longest time in which nobody got a 201, of those that ended after `since`."""
    times = [one.at for one in told if one.status == "201" and one.places]
    gaps = [after - before for before, after in itertools.pairwise(times) if after > since]
    return max(gaps, default=float("inf"))


def closed_to(told: Sequence[Told], since: float, until: float) -> list[str]:
    """Return what is wrong if nobody could order or pay from `since` to `until`.

    What was asked for before may have been done before as well, and told only then.
    """
    new = counted([one for one in told if one.first > since and one.at < until])
    if early := {status: count for status, count in new.items() if status in ("200", "201", "202")}:
        return [f"told while no standby was in sync: {early}"]
    return [] if new else ["nobody asked for anything while no standby was in sync"]
