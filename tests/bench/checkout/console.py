"""`make bench-console`: the CPU of a checkout that a console watches, compared with one that nobody watches.

Two instances of the product run on two copies of the catalogue, and are measured in turn, in pairs of short turns whose
order alternates. One has a console, and a browser that shows the page *Live*.

Counted are the five services only, as in `make bench-auth`: in production, the console and the browser run elsewhere.
Exit status: 0; 1 if the promised ratio was missed; 2 if a round failed or this machine lacks what it takes.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from tests.bench.checkout.catalogue import make_catalogue
from tests.bench.checkout.load import LoadError
from tests.bench.checkout.pairs import Instance, compare
from tests.bench.checkout.round import UsedCatalogue
from tests.bench.checkout.shop import START_SECONDS, Shop, running_shop, serves, start_process
from tests.bench.servers import Servers, find_tool
from tests.infrastructure.waiting import free_port, wait_until

RATIO_MAX = 1.03
UNUSED = ("ORDER_URL", "RELAY_URL", "ORDER_ADMIN_URL", "RELAY_ADMIN_URL")  # by this page


@contextmanager
def instances(running: Servers) -> Iterator[tuple[Instance, Instance]]:
    """Run the product twice, and a console with a browser of one of both."""
    wrk = find_tool("wrk", "wrk")
    catalogue = make_catalogue(running.postgres_url)
    with (
        running_shop(running, catalogue) as alone,
        running_shop(running, catalogue) as seen,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        watched(running, seen, Path(folder)),
    ):
        yield (
            Instance("alone", alone, UsedCatalogue(wrk, seed=1)),
            Instance("watched", seen, UsedCatalogue(wrk, seed=1)),
        )


@contextmanager
def watched(running: Servers, shop: Shop, folder: Path) -> Iterator[None]:
    """Run a console of the shop, and a browser that shows its first page, *Live*."""
    port = free_port()
    places = {f"CONSOLE_{name.upper()}_REPLICAS": url for name, url in shop.urls.items()}
    others = {f"CONSOLE_{name}": shop.urls["order"] for name in UNUSED}
    environment = {**os.environ, **places, **others, "AUTH_MODE": "open", "CONSOLE_PORT": str(port)}
    console = start_process("console", [sys.executable, "-m", "deploy.console"], environment, running)
    address = f"http://127.0.0.1:{port}"
    wait_until(partial(serves, console, address), START_SECONDS, "the console to serve")
    # As root it has no sandbox: it opens no page but this one.
    options = ["--headless", "--no-sandbox", f"--user-data-dir={folder}", "--remote-debugging-port=0"]
    start_process("chromium", [find_tool("chromium", "chromium"), *options, address], environment, running)
    shows = partial(has_a_client, console.pid, port)
    wait_until(shows, START_SECONDS, "the browser to show the page")
    yield
    if not shows():
        raise LoadError("the browser no longer shows the page")


def has_a_client(pid: int, port: int) -> bool:
    """Return whether somebody is connected to a process at its port."""
    connections = psutil.Process(pid).net_connections("tcp")
    return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in connections)


if __name__ == "__main__":
    sys.exit(compare("bench-console", __doc__, instances, "watched by a console", RATIO_MAX))
