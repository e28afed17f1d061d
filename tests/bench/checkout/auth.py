"""`make bench-auth`: the CPU of a checkout in jwt mode, compared with open mode.

Two instances of the product run on two copies of the catalogue, and are measured in turn, in pairs of short turns whose
order alternates. Each user has a token of their own. The order service has verified all of them before the first pair,
as in production some minutes after a start. The cost of a first verification is measured apart, in this process.

Counted are the five services only. Postgres and the broker serve both instances, and do the same for both: they would
hide a difference in what varies more than it. Without them the ratio is further from 1.
Exit status: 0; 1 if the promised ratio was missed; 2 if a round failed or this machine lacks what it takes.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from deploy.local.configuration import AUDIENCE
from shared.identity.tokens import TokenRules, read_keys, verify
from tests.bench.checkout.catalogue import make_catalogue
from tests.bench.checkout.load import LoadError
from tests.bench.checkout.pairs import Instance, compare
from tests.bench.checkout.round import UsedCatalogue, order_urls
from tests.bench.checkout.shop import Shop, running_shop
from tests.bench.checkout.tokens import ISSUER, UserTokens
from tests.bench.servers import Servers, find_tool

RATIO_MAX = 1.05
CALLS_AT_ONCE = 32
VERIFIED = 1000


async def verify_all(shop: Shop) -> None:
    """Let the order service verify every user's token. Raises LoadError if it refuses one."""
    assert shop.tokens is not None
    remaining = iter(shop.tokens.read_text().split())

    async def work(session: aiohttp.ClientSession) -> None:
        for token in remaining:
            headers = {"Authorization": f"Bearer {token}"}
            # Refused for what it asks for, after its token was verified and without a query.
            async with session.get(f"{order_urls(shop)[0]}/v1/orders?limit=0", headers=headers) as response:
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


@contextmanager
def instances(running: Servers) -> Iterator[tuple[Instance, Instance]]:
    """Run the product in both modes, the latter with tokens that are verified."""
    wrk = find_tool("wrk", "wrk")
    with tempfile.TemporaryDirectory() as folder:
        tokens = UserTokens(Path(folder)).create()
        print(f"a first verification: {verification_us(tokens):.0f} us of CPU", flush=True)
        catalogue = make_catalogue(running.postgres_url)
        with running_shop(running, catalogue) as plain, running_shop(running, catalogue, tokens=tokens) as asking:
            asyncio.run(verify_all(asking))
            yield (
                Instance("open", plain, UsedCatalogue(wrk, seed=1)),
                Instance("jwt", asking, UsedCatalogue(wrk, seed=1)),
            )


if __name__ == "__main__":
    sys.exit(compare("bench-auth", __doc__, instances, "jwt against open", RATIO_MAX))
