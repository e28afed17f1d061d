"""Runs the peer: its processes, each on its own core, with a copy of the catalogue; and audits its sales."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.checkout.catalogue import Catalogue
from tests.bench.checkout.shop import audited
from tests.bench.servers import REPOSITORY, MissingError, Servers
from tests.infrastructure.databases import Database

PROGRAM = Path(__file__).parent / "peer_program" / "checkout.py"
PYTHON = REPOSITORY / ".venv-dbos" / "bin" / "python"
PROCESSES = 2  # one per core, pinned: two that share cores cost each other half
THREADS = (4, 8, 16)  # in each process
COUPONS_APART = 20_000  # more than one measurement can use up


@dataclass(frozen=True, slots=True)
class PeerSold:
    """The peer's sales."""

    style: str
    threads: int
    checkouts: int
    rate: float
    p50_us: float


@dataclass(slots=True)
class PeerShop:
    """The peer with its database."""

    database: Database
    coupons: int = 0

    def run(self, style: str, threads: int, seconds: int) -> PeerSold:
        """Let the peer sell for some seconds."""
        shared = [(threads, seconds, number, PROCESSES, self.coupons) for number in range(PROCESSES)]
        processes = [
            subprocess.Popen(
                [str(value) for value in (PYTHON, PROGRAM, "run", self.database.url, style, *numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for numbers in shared
        ]
        self.coupons += COUPONS_APART
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the peer did not start: {process.args!r}")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counted = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
        if any(process.returncode != 0 for process in processes):
            raise RuntimeError("the peer failed")
        rate = sum(one["checkouts"] / one["seconds"] for one in counted)
        p50 = max(one["p50_us"] for one in counted)
        return PeerSold(style, threads, sum(one["checkouts"] for one in counted), rate, p50)


def require_peer() -> None:
    """Raise MissingError if the peer's environment does not exist."""
    if not PYTHON.exists():
        raise MissingError(f"{PYTHON} is missing: `make bench` installs it")


@contextmanager
def peer_shop(servers: Servers, catalogue: Catalogue) -> Iterator[PeerShop]:
    """Run the peer on a new copy of the catalogue; at the end audit its books with the product's own audit."""
    with catalogue.copy() as database:
        subprocess.run([PYTHON, PROGRAM, "migrate", database.url], check=True, stdout=subprocess.DEVNULL)
        yield PeerShop(database)
        audited(servers, database)
