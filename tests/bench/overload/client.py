"""Customers, either of two kinds: `… client URL SECONDS SEED wait CLIENTS` or `… client URL SECONDS SEED come RATE`.

Those who *wait* are so many; each asks again once it is answered: what is served then is what can be. Those who *come*
do so at a rate, whether or not the ones before them were served, as people do who don't know of one another. An arrival
takes a connection that is free, or opens one, as a gateway does. Who is refused goes away, and doesn't come again
before the time is over: whoever came again would be one more of those that the rate counts.

Both send the same orders, and take the same CPU to send one: the load shares its cores with what it measures. Prints
what they were answered.
"""

import asyncio
import itertools
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.checkout.catalogue import PRODUCTS, USERS

# Slightly more than a service accepts: a request without a free connection counts as refused by the network.
CONNECTIONS_MAX = 3500
TICK_SECONDS = 0.005
END_SECONDS = 12.0  # the wait for the last answers: longer than the service's own deadline
# Before the measurement: connections are opened, and orders fill the capacity.
WARM_SECONDS = 1.0
ORDERS = 20_000  # made before the start, and reused from the first: making one costs as much as sending it
HEAD = "POST /v1/orders HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"


@dataclass(slots=True)
class Tally:
    """The results: answers by status, those served during the measurement, and the seconds until each answer."""

    arrivals: int = 0
    without_connection: int = 0
    broken: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    served: int = 0
    waits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)


class Customer(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self, generator: "LoadGenerator") -> None:
        self._generator = generator
        self._began = 0.0
        self._buffer = b""
        self._waiting: bytes | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request that waited for the connection."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is not a subclass
        if self._waiting is not None:
            self._transport.write(self._waiting)

    def ask(self, request: bytes) -> None:
        """Send a request now, or once the connection is open."""
        self._began = self._generator.loop.time()
        self._buffer = b""
        self._waiting = request
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read an answer; only its status matters, once it is complete."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._waiting = None
            self._generator.answered(self, int(head[9:12]), self._generator.loop.time() - self._began)

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop the connection; a request in flight is lost."""
        self._generator.lost(self, under_way=self._waiting is not None)


class LoadGenerator:
    """Customers of one kind, and their connections."""

    def __init__(self, url: str, seconds: float, seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.tally = Tally()
        place = urlsplit(url)
        self._host, self._port = place.hostname or "", place.port or 80
        self._orders = itertools.cycle(list(itertools.islice(orders(random.Random(seed)), ORDERS)))
        self._free: list[Customer] = []
        self._open = 0
        self._under_way = 0
        self._ask_again = False
        self._began = self.loop.time()
        self._counts_from = self._began + WARM_SECONDS
        self._ends = self._counts_from + seconds
        self._connecting: set[asyncio.Task[None]] = set()

    async def closed_load(self, clients: int) -> Tally:
        """Let this many customers send one request after the other; wait for the last answers."""
        self._ask_again = True
        for _ in range(clients):
            self._arrive()
        await asyncio.sleep(self._ends - self.loop.time())
        self._ask_again = False
        return await self._all_answered()

    async def open_load(self, rate: float) -> Tally:
        """Send this many requests per second; wait for the last answers."""
        while (now := self.loop.time()) < self._ends:
            due = int((now - self._began) * rate) - self.tally.arrivals
            for _ in range(due):
                self._arrive()
            await asyncio.sleep(TICK_SECONDS)
        return await self._all_answered()

    async def _all_answered(self) -> Tally:
        deadline = self.loop.time() + END_SECONDS
        while self._under_way and self.loop.time() < deadline:  # noqa: ASYNC110 - thousands, and nobody else to signal
            await asyncio.sleep(TICK_SECONDS)
        return self.tally

    def answered(self, customer: Customer, status: int, seconds: float) -> None:
        """Count an answer."""
        self._under_way -= 1
        self.tally.statuses[status] += 1
        if status == 201:
            self.tally.waits.append(seconds)
            self.tally.served += self._counts_from <= self.loop.time() <= self._ends
        elif status == 503:
            self.tally.refusals.append(seconds)
        self._free.append(customer)
        if self._ask_again:
            self._arrive()

    def lost(self, customer: Customer, *, under_way: bool) -> None:
        """Count a connection that was closed."""
        self._open -= 1
        if under_way:
            self._under_way -= 1
            self.tally.broken += 1
        elif customer in self._free:
            self._free.remove(customer)

    def _arrive(self) -> None:
        self.tally.arrivals += 1
        if self._free:
            customer = self._free.pop()
        elif self._open < CONNECTIONS_MAX:
            customer = Customer(self)
            self._open += 1
            task = self.loop.create_task(self._connect(customer))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self.tally.without_connection += 1
            return
        self._under_way += 1
        customer.ask(next(self._orders))

    async def _connect(self, customer: Customer) -> None:
        try:
            await self.loop.create_connection(lambda: customer, self._host, self._port)
        except OSError:
            self.lost(customer, under_way=True)


def orders(rng: random.Random) -> Iterator[bytes]:
    """Return requests, each with different users and products."""
    while True:
        first = rng.randrange(1, PRODUCTS - 3)
        lines = [{"product_id": f"p-{first + line}", "quantity": 1} for line in range(rng.randint(1, 3))]
        body = json.dumps({"user_id": f"u-{rng.randrange(USERS)}", "lines": lines})
        yield HEAD.format(len(body), body).encode()


def percentile(values: list[float], share: float) -> float:
    """Return a percentile in ms; 0 without values."""
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0.0


async def main(url: str, seconds: float, seed: int, kind: str, amount: float) -> None:
    """Print the tally as one line of JSON."""
    generator = LoadGenerator(url, seconds, seed)
    before = resource.getrusage(resource.RUSAGE_SELF)
    tally = await (generator.closed_load(int(amount)) if kind == "wait" else generator.open_load(amount))
    after = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "arrivals": tally.arrivals,
        "without_connection": tally.without_connection,
        "broken": tally.broken,
        "statuses": tally.statuses,
        "goodput": tally.served / seconds,
        "p50_ms": percentile(tally.waits, 0.5),
        "p99_ms": percentile(tally.waits, 0.99),
        "refused_p99_ms": percentile(tally.refusals, 0.99),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
