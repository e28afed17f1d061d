"""`make bench-gateway`: the time that clients wait at the gateway beside 1,000 slow connections.

A slow connection sends half of its headers, and is opened again when the gateway's time for them is over. They come
from one address, and from fifty. Rounds with and without them alternate, because the machine's speed changes by the
minute; each round is compared with the ones directly before and after it.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from tests.infrastructure.gateway import SERVICES, gateway
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, listens, wait_until

REPOSITORY = Path(__file__).parents[2]
SLOW = 1_000
ADDRESSES = (1, 50)
MOVED_MAX = 0.10
CLIENTS = 4
PAUSE_SECONDS = 0.005  # between two requests of a client, so that the machine is not saturated
NEW_CONNECTION_EVERY = 10  # requests: a new connection meets those that the slow ones fill the queue with
HEADER_SECONDS = 3.0  # client_header_timeout
WARM_SECONDS = HEADER_SECONDS + 1  # then all slow connections are open, and the first have come again
START_SECONDS = 10
REQUEST = b"GET /v1/orders HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CLIENT_ADDRESS = "127.0.1.1"


async def serve(port: int) -> None:
    """Answer every request at once, as the services behind the gateway."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER)

    async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024) as server:
        await server.serve_forever()


def hold(port: int, addresses: int) -> None:
    """Keep the slow connections open: each is opened again when its time for headers is over."""
    # Attackers have CPU of their own: never before the clients and nginx, whatever the priority of the benchmark.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    held: dict[int, socket.socket] = {}
    begun = time.monotonic()
    for opened in itertools.count():
        number = opened % SLOW
        if number in held:
            held[number].close()
        local = (f"127.0.0.{2 + number % addresses}", 0)
        held[number] = socket.create_connection(("127.0.0.1", port), START_SECONDS, local)
        with contextlib.suppress(OSError):  # closed already: there are too many of its address
            held[number].send(REQUEST[:-3])
        time.sleep(max(0.0, begun + opened * HEADER_SECONDS / SLOW - time.monotonic()))


async def measure(port: int, seconds: float) -> list[float]:
    """Return the seconds that each request of the clients took, with its connection if it opened one."""
    waits: list[float] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            begun = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(CLIENT_ADDRESS, 0))
            for _ in range(NEW_CONNECTION_EVERY):
                writer.write(REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 "), head
                await reader.readexactly(2)
                waits.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE_SECONDS)
                begun = time.perf_counter()
            writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return waits


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[None]:
    """Run a part of this module in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.gateway", *map(str, arguments)]
    running = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        yield
        assert running.poll() is None, f"{arguments} ended"
    finally:
        running.kill()
        running.wait()


def p99_ms(waits: Sequence[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return statistics.quantiles(waits, n=100)[98] * 1000


def compare(port: int, addresses: int, rounds: int, seconds: float) -> bool:
    """Print how much slow connections move the p99; return whether the promise is kept."""

    def quiet() -> float:
        return p99_ms(uvloop.run(measure(port, seconds)))

    moved, before, slow = [], [quiet()], []
    for _ in range(rounds):
        with process("hold", port, addresses):
            time.sleep(WARM_SECONDS)
            slow.append(quiet())
        before.append(quiet())
        moved.append(slow[-1] / statistics.mean(before[-2:]) - 1)
        print(
            f"  {addresses} addresses: p99 {slow[-1]:.2f} ms, without {before[-2]:.2f} and {before[-1]:.2f} ms",
            flush=True,
        )
    result = statistics.median(moved)
    low, _, high = statistics.quantiles(moved, n=4)
    kept = result < MOVED_MAX
    print(
        f"{SLOW} slow connections from {addresses} addresses: p99 {statistics.median(before):.2f} -> "
        f"{statistics.median(slow):.2f} ms, {result:+.1%} (quartiles {low:+.1%} to {high:+.1%}; "
        f"at most {MOVED_MAX:+.0%}) {'kept' if kept else 'MISSED'}",
        flush=True,
    )
    return kept


def main() -> None:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    arguments = parser.parse_args()
    match arguments.part:
        case ["serve", port]:
            uvloop.run(serve(int(port)))
        case ["hold", port, addresses]:
            hold(int(port), int(addresses))
        case []:
            sys.exit(0 if run(arguments.rounds, arguments.seconds) else 1)
        case _:
            parser.error("unknown part")


def run(rounds: int, seconds: float) -> bool:
    """Measure with slow connections from one address, and from many; return whether the promises are kept."""
    service = free_port()
    with contextlib.closing(Reaper()) as reaper, process("serve", service):
        wait_until(lambda: listens("127.0.0.1", service), START_SECONDS, "the service")
        # All clients that are measured have one address.
        requests = {"rate=100r/s": "rate=100000r/s", "rate=50r/s": "rate=100000r/s"}
        with gateway(dict.fromkeys(SERVICES, f"http://127.0.0.1:{service}"), reaper, requests) as running:
            port = int(running.url.rpartition(":")[2])
            kept = [compare(port, addresses, rounds, seconds) for addresses in ADDRESSES]
            return all(kept)


if __name__ == "__main__":
    main()
