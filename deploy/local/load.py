"""Lets customers buy beside the local run: `make load SECONDS=60 CUSTOMERS=4`. Ctrl-C ends it earlier.

They use the client for Python callers: a service that is killed or paused meanwhile delays them, and no order is lost
or placed twice. They have accounts and a product of their own, so that the demo data stays. Exit status: 0 if every
operation had the answer that it should have.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from statistics import quantiles

import aiohttp

from deploy.client import Client, ClientError, OrderStatus, Policy, Problem, Service
from deploy.client.problems import AccountNotFound, ProductExists
from deploy.local.configuration import local_folder
from deploy.local.folder import Folder
from deploy.local.progress import Progress
from deploy.local.terminal import read_run_or_exit, write
from deploy.local.token import issuer_of
from shared.process.exits import Exit, end

CUSTOMERS, SECONDS = 4, 60.0
PAUSE_SECONDS = 0.25  # of a customer after each order: a machine that does something else as well has time for it
PATIENCE_SECONDS = 60.0  # every saga ends within it, once all services answer
PREPARER_SCOPES = "catalog:write accounts:charge orders:read"
PRODUCT, PRICE, STOCK = "load", 1_000, 10**9
MONEY, MONEY_MIN = 10**9, 10**8  # charged if less than the least is left; a customer spends 4,000 a second at most

Token = Callable[[str, str], str]  # of a user with scopes


@dataclass(slots=True)
class Tally:
    """What became of the customers' orders. `seconds`: how long each placement took, with its repetitions."""

    ended: Counter[OrderStatus] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    without_answer: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Return whether no order failed: these customers have money, and their product has stock."""
        return bool(self.ended) and not self.refused and not self.without_answer


async def customer(client: Client, user_id: str, tally: Tally, ends: asyncio.Event, progress: Progress) -> None:
    """Buy until `ends` is set: now and later alternately; every fourth order is given back."""
    for number in count():
        if ends.is_set():
            return
        try:
            await _buy(client, user_id, number, tally)
        except Problem as refused:
            tally.refused[refused.slug] += 1
        except ClientError as error:
            tally.without_answer.append(str(error))
        progress.update(f"{tally.ended.total():,} orders")
        await _pause(ends)


async def _buy(client: Client, user_id: str, number: int, tally: Tally) -> None:
    began = time.monotonic()
    order = await client.orders.place({PRODUCT: 1}, user_id=user_id, payment="later" if number % 2 else "now")
    tally.seconds.append(time.monotonic() - began)
    if order.status is OrderStatus.PENDING_PAYMENT:
        order = await client.orders.pay(order.order_id)
    if number % 4 == 3:
        order = await client.orders.cancel(order.order_id)
    tally.ended[order.status] += 1


async def _pause(ends: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(ends.wait(), PAUSE_SECONDS)


async def prepare(client: Client, users: Sequence[str]) -> None:
    """Create the product, and give these users money, unless an earlier load has left enough. Raises ClientError."""
    with suppress(ProductExists):
        await client.products.create(product_id=PRODUCT, name="What make load buys", price=PRICE, stock=STOCK)
    for user_id in users:
        try:
            balance = (await client.accounts.get(user_id)).balance
        except AccountNotFound:
            balance = 0
        if balance < MONEY_MIN:
            await client.accounts.charge(user_id, MONEY)


def summary(tally: Tally, seconds: float) -> str:
    """Return what was done, in a few lines."""
    ended = ", ".join(f"{number:,} {status.lower()}" for status, number in tally.ended.most_common())
    lines = [f"{tally.ended.total():,} orders in {seconds:.0f} s: {ended or 'none'}"]
    if len(tally.seconds) > 1:
        hundredths = quantiles(tally.seconds, n=100, method="inclusive")
        lines.append(f"placed within {hundredths[49] * 1000:.0f} ms (median), {hundredths[98] * 1000:.0f} ms (p99)")
    lines += [f"refused: {number:,} {slug}" for slug, number in tally.refused.most_common()]
    if tally.without_answer:
        lines.append(f"without a final answer: {len(tally.without_answer):,}; {tally.without_answer[-1]}")
    return "\n".join(lines)


async def load(urls: Mapping[Service, str], token: Token | None, seconds: float, customers: int) -> Tally:
    """Let customers buy for so many seconds, or until Ctrl-C. Raises ClientError if nothing can be prepared."""
    users = [f"load-{number + 1}" for number in range(customers)]
    ends, tally, policy = asyncio.Event(), Tally(), Policy(deadline_seconds=PATIENCE_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        def client(user: str, scopes: str = "") -> Client:
            fresh = None if token is None else (lambda: token(user, scopes))
            return Client(urls, token=fresh, policy=policy, session=session)

        with Progress("customers buy") as progress:
            await prepare(client("load", PREPARER_SCOPES), users)
            asyncio.get_running_loop().call_later(seconds, ends.set)
            async with asyncio.TaskGroup() as group:
                for user in users:
                    group.create_task(customer(client(user), user, tally, ends, progress))
    return tally


def main() -> None:
    """Put load on the local run, and print what became of it."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long (default: %(default)s)")
    parser.add_argument(
        "--customers", type=int, default=CUSTOMERS, help="how many buy at a time (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not (arguments.seconds > 0 and arguments.customers > 0):
        parser.error("both must be above 0")
    folder = Folder(local_folder(os.environ))
    run = read_run_or_exit(folder)
    urls = {service: str(run["services"][service.value]["url"]) for service in Service}
    token = None if run["issuer"] is None else issuer_of(folder, run["issuer"]).token
    began = time.monotonic()
    try:
        tally = asyncio.run(load(urls, token, arguments.seconds, arguments.customers))
    except (ClientError, aiohttp.ClientError) as error:
        end(Exit.FAILED, f"The load could not be prepared: {error}")
    write(summary(tally, time.monotonic() - began))
    sys.exit(Exit.DONE if tally.is_good else Exit.FAILED)


if __name__ == "__main__":
    main()
