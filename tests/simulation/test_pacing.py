"""Simulates checkouts that pass real batchers and a real scheduler; only the duration of a batch is modelled.

A batch takes 1.5 ms and 0.06 ms an item, as measured where everything shares two cores.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import mean, quantiles

import pytest

from shared import pacing as module
from shared.batcher import Batcher
from shared.pacing import BatchScheduler
from tests.simulation.loop import VirtualLoop

STEPS = ("starts", "product", "coupon", "balance", "transitions")
BATCH_SECONDS, ITEM_SECONDS = 0.0015, 0.00006
COUPON_SHARE = 0.3
SECONDS = 4.0


@dataclass
class Shop:
    """One replica with one slot, the sizes of its batches and the durations of its checkouts."""

    batchers: list[Batcher[int, int]]
    sizes: dict[str, list[int]]
    seconds: list[float] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    async def checkout(self) -> None:
        """Pass all steps, and the coupon step only sometimes."""
        loop = asyncio.get_running_loop()
        began, with_coupon = loop.time(), self.rng.random() < COUPON_SHARE
        for batcher in self.batchers:
            if batcher.name != "coupon" or with_coupon:
                await batcher.submit(0)
        self.seconds.append(loop.time() - began)

    def percentile(self, percent: int) -> float:
        """Return a percentile of the checkouts' durations in seconds."""
        return quantiles(self.seconds, n=100)[percent - 1]


def run(customers: Callable[[Shop], Awaitable[None]]) -> Shop:
    """Run a shop with these customers for some virtual seconds, and return it."""

    async def play() -> Shop:
        sizes: dict[str, list[int]] = {name: [] for name in STEPS}

        def work(name: str) -> Callable[[Sequence[int]], Awaitable[Sequence[int]]]:
            async def do(items: Sequence[int]) -> Sequence[int]:
                sizes[name].append(len(items))
                await asyncio.sleep(BATCH_SECONDS + ITEM_SECONDS * len(items))
                return items

            return do

        async with AsyncExitStack() as stack:
            scheduler = BatchScheduler(1, STEPS)
            made = [Batcher(name, work(name), batch_max=256, queue_max=1024, scheduler=scheduler) for name in STEPS]
            shop = Shop([await stack.enter_async_context(batcher) for batcher in made], sizes)
            await customers(shop)
            return shop

    shop: Shop = VirtualLoop().run_until_complete(play())
    return shop


def clients(count: int) -> Shop:
    """Run clients who start the next checkout when they have the answer to the last."""

    async def buy(shop: Shop) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < SECONDS:
            await shop.checkout()

    async def buy_concurrently(shop: Shop) -> None:
        await asyncio.gather(*(buy(shop) for _ in range(count)))

    return run(buy_concurrently)


def arrivals(rate: float) -> Shop:
    """Run customers who arrive at a rate, without regard to earlier answers. `rate` is per second."""

    async def arrive(shop: Shop) -> None:
        loop = asyncio.get_running_loop()
        coming = set()
        while loop.time() < SECONDS:
            await asyncio.sleep(shop.rng.expovariate(rate))
            coming.add(loop.create_task(shop.checkout()))
        await asyncio.gather(*coming)

    return run(arrive)


def test_returning_clients_pass_all_steps_in_one_batch() -> None:
    shop = clients(32)
    for step in ("starts", "product", "balance", "transitions"):
        assert mean(shop.sizes[step]) > 30


def test_checkouts_with_more_steps_take_at_most_twice_the_median() -> None:
    shop = clients(16)
    assert shop.percentile(99) < 2 * shop.percentile(50)


@pytest.mark.parametrize("rate", [100, 300, 600])
def test_independent_arrivals_lose_little_latency_to_pacing(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    paced = arrivals(rate)
    monkeypatch.setattr(module, "CATCH_UP_SHARE", 1 / 2)
    monkeypatch.setattr(module, "CLIENT_RETURN_SECONDS", 0.0)
    unpaced = arrivals(rate)
    assert paced.percentile(50) < 1.15 * unpaced.percentile(50)
    assert sum(map(len, paced.sizes.values())) < sum(map(len, unpaced.sizes.values())) * 1.01, "no more batches"
