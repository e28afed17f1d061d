"""Customers who come whether or not the last ones were served: `… client URL RATE SECONDS SEED`.

An arrival takes a connection that is free, or opens one. Who is refused goes away. Prints what they were answered.
"""

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.checkout.catalogue import PRODUCTS, USERS

# As many as a service takes, and some: whoever finds none free counts as turned away by the network.
CONNECTIONS_MAX = 3500
TICK_SECONDS = 0.005
END_SECONDS = 12.0  # how long the last ones are waited for: longer than the service's own deadline
HEAD = "POST /v1/orders HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"


@dataclass(slots=True)
class Tally:
    """What came of the arrivals: answers by status, and how long those that were served took, in seconds."""

    arrivals: int = 0
    without_connection: int = 0
    broken: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    served_in_time: int = 0
    waits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)


class Customer(asyncio.Protocol):
    """A connection, with one request under way at a time."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._began = 0.0
        self._buffer = b""
        self._waiting: bytes | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what has waited for the connection."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class
        if self._waiting is not None:
            self._transport.write(self._waiting)

    def ask(self, request: bytes) -> None:
        """Send a request, now or when there is a connection."""
        self._began = self._crowd.loop.time()
        self._buffer = b""
        self._waiting = request
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take an answer in: its status is all that matters, once it is complete."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._waiting = None
            self._crowd.answered(self, int(head[9:12]), self._crowd.loop.time() - self._began)

    def connection_lost(self, _error: Exception | None) -> None:
        """Forget the connection; a request that was under way is lost."""
        self._crowd.lost(self, under_way=self._waiting is not None)


class Crowd:
    """Arrivals at a rate."""

    def __init__(self, url: str, rate: float, seconds: float, seed: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.tally = Tally()
        place = urlsplit(url)
        self._host, self._port = place.hostname or "", place.port or 80
        self._rate = rate
        self._seconds = seconds
        self._dice = random.Random(seed)
        self._free: list[Customer] = []
        self._open = 0
        self._under_way = 0
        self._ends = 0.0
        self._connecting: set[asyncio.Task[None]] = set()

    async def come(self) -> Tally:
        """Let them come for the time, and wait for the last."""
        began = self.loop.time()
        self._ends = began + self._seconds
        while (now := self.loop.time()) < self._ends:
            due = int((now - began) * self._rate) - self.tally.arrivals
            for _ in range(due):
                self._arrive()
            await asyncio.sleep(TICK_SECONDS)
        deadline = self.loop.time() + END_SECONDS
        while self._under_way and self.loop.time() < deadline:  # noqa: ASYNC110 - thousands, and nobody else to signal
            await asyncio.sleep(TICK_SECONDS)
        return self.tally

    def answered(self, customer: Customer, status: int, seconds: float) -> None:
        """Count an answer."""
        self._under_way -= 1
        self.tally.statuses[status] = self.tally.statuses.get(status, 0) + 1
        if status == 201:
            self.tally.waits.append(seconds)
            self.tally.served_in_time += self.loop.time() <= self._ends
        elif status == 503:
            self.tally.refusals.append(seconds)
        self._free.append(customer)

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
        customer.ask(self._order())

    async def _connect(self, customer: Customer) -> None:
        try:
            await self.loop.create_connection(lambda: customer, self._host, self._port)
        except OSError:
            self.lost(customer, under_way=True)

    def _order(self) -> bytes:
        first = self._dice.randrange(1, PRODUCTS - 3)
        lines = [{"product_id": f"p-{first + line}", "quantity": 1} for line in range(self._dice.randint(1, 3))]
        body = json.dumps({"user_id": f"u-{self._dice.randrange(USERS)}", "lines": lines})
        return HEAD.format(len(body), body).encode()


def percentile(values: list[float], share: float) -> float:
    """A percentile in ms; 0 of nothing."""
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0.0


async def main(url: str, rate: float, seconds: float, seed: int) -> None:
    """Print the tally as one line of JSON."""
    tally = await Crowd(url, rate, seconds, seed).come()
    told = {
        "arrivals": tally.arrivals,
        "without_connection": tally.without_connection,
        "broken": tally.broken,
        "statuses": tally.statuses,
        "goodput": tally.served_in_time / seconds,
        "p50_ms": percentile(tally.waits, 0.5),
        "p99_ms": percentile(tally.waits, 0.99),
        "refused_p99_ms": percentile(tally.refusals, 0.99),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
