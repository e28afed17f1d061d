"""`make bench-auth`: the CPU of a checkout in jwt mode, compared with open mode.

Two instances of the product run on two copies of the catalogue, and are measured in turn, in pairs of short turns whose
order alternates. Each user has a token of their own. The order service has verified all of them before the first pair,
as in production some minutes after a start. The cost of a first verification is measured apart, in this process.

Counted are the five services only. Postgres and the broker serve both instances, and do the same for both: they would
hide a difference in what varies more than it. Without them the ratio is further from 1.
Exit status: 0; 1 if the promised ratio was missed; 2 if a round failed or this machine lacks what it takes.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from deploy.local.configuration import AUDIENCE
from shared.identity.tokens import TokenRules, read_keys, verify
from tests.bench.checkout.catalogue import make_catalogue
from tests.bench.checkout.figures import median_interval
from tests.bench.checkout.load import Load, LoadError
from tests.bench.checkout.meters import process_seconds
from tests.bench.checkout.round import UsedCatalogue, buy
from tests.bench.checkout.shop import BooksError, Shop, running_shop
from tests.bench.checkout.tokens import ISSUER, UserTokens
from tests.bench.servers import MissingError, find_tool, servers
from tests.infrastructure.waiting import DeadlineError

RATIO_MAX = 1.05
CLIENTS = 64
WARM_SECONDS = 20  # at first, a new broker interprets its code
CALLS_AT_ONCE = 32
VERIFIED = 1000


def pairs(shops: tuple[Shop, Shop], count: int, seconds: int) -> list[tuple[float, float]]:
    """Measure open and jwt mode in turn, `count` times; return the microseconds of a checkout in both, for each pair.

    Short turns: the speed of the machine changes within seconds, and should be the same for both turns of a pair.
    """
    wrk = find_tool("wrk", "wrk")
    used = [UsedCatalogue(wrk, seed=1), UsedCatalogue(wrk, seed=1)]
    for shop, catalogue in zip(shops, used, strict=True):
        buy(shop, Load("cold", CLIENTS, WARM_SECONDS), catalogue)
    measured = []
    for number in range(count):
        cpu = [0.0, 0.0]
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            cpu[turn] = checkout_us(shops[turn], used[turn], seconds)
        measured.append((cpu[0], cpu[1]))
        print(f"pair {number + 1:>2}: open {cpu[0]:.0f} us, jwt {cpu[1]:.0f} us, {cpu[1] / cpu[0]:.3f}", flush=True)
    return measured


def checkout_us(shop: Shop, used: UsedCatalogue, seconds: int) -> float:
    """Let clients buy; return the CPU of all services for a checkout, in microseconds.

    No saga is live before or after, and orders whose clients were cut off at the end count like the others. So
    everything that was spent belongs to an order that is counted.
    """
    earlier, spent = sum(used.orders.values()), services_seconds(shop)
    buy(shop, Load("cold", CLIENTS, seconds), used)
    return (services_seconds(shop) - spent) / (sum(used.orders.values()) - earlier) * 1e6


def services_seconds(shop: Shop) -> float:
    """Return the CPU that the services have used."""
    return sum(process_seconds(process.pid) for process in shop.processes.values())


async def verify_all(shop: Shop) -> None:
    """Let the order service verify every user's token. Raises LoadError if it refuses one."""
    assert shop.tokens is not None
    remaining = iter(shop.tokens.read_text().split())

    async def work(session: aiohttp.ClientSession) -> None:
        for token in remaining:
            headers = {"Authorization": f"Bearer {token}"}
            # Refused for what it asks for, after its token was verified and without a query.
            async with session.get(f"{shop.urls['order']}/v1/orders?limit=0", headers=headers) as response:
                if response.status != 422:
                    raise LoadError(f"a token was refused: {await response.text()}")

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(CALLS_AT_ONCE)))


def verification_us(tokens: UserTokens) -> float:
    """Return the CPU of the first verification of a token, in microseconds."""
    rules = TokenRules(ISSUER, AUDIENCE, ("ES256",))
    keys = read_keys(tokens.keys.read_bytes())
    some = tokens.file.read_text().split()[:VERIFIED]
    began = time.process_time()
    for token in some:
        verify(token, keys, rules, time.time())
    return (time.process_time() - began) / len(some) * 1e6


def main() -> int:
    """Measure, audit and compare with the limit."""
    parser = argparse.ArgumentParser(prog="bench-auth", description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="how many pairs are measured (40)")
    parser.add_argument("--seconds", type=int, default=2, help="how long each turn of a pair lasts (2)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder, servers() as running:
            tokens = UserTokens(Path(folder)).create()
            print(f"a first verification: {verification_us(tokens):.0f} us of CPU", flush=True)
            catalogue = make_catalogue(running.postgres_url)
            with running_shop(running, catalogue) as plain, running_shop(running, catalogue, tokens=tokens) as asking:
                asyncio.run(verify_all(asking))
                measured = pairs((plain, asking), arguments.pairs, arguments.seconds)
                audits = [shop.audit() for shop in (plain, asking)]
    except (MissingError, LoadError, BooksError, DeadlineError) as error:
        print(error, file=sys.stderr)
        return 2
    ratios = [with_tokens / without for without, with_tokens in measured]
    low, high = median_interval(ratios)
    median = statistics.median(ratios)
    print(f"{sum(audit['orders'] for audit in audits)} orders audited, all books agree")
    modes = [statistics.median(values) for values in zip(*measured, strict=True)]
    print(f"CPU of a checkout in the services, medians: open {modes[0]:.0f} us, jwt {modes[1]:.0f} us")
    print(f"jwt against open, CPU per checkout: {median:.3f} (95%: {low:.3f} to {high:.3f}); promised: {RATIO_MAX}")
    print(json.dumps({"median": median, "interval": [low, high], "pairs": measured}))
    return 1 if median > RATIO_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
