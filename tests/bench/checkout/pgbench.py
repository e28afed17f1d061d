"""Runs the scripts with pgbench, and compares their rows with the product's."""

import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.checkout.catalogue import COUPONS, Catalogue
from tests.bench.checkout.meters import Meters, Reading
from tests.bench.checkout.scripts import SETUP, script
from tests.bench.checkout.shop import BooksError, audited
from tests.bench.servers import Servers
from tests.infrastructure.databases import Database

THREADS_MAX = 2
# The allowed difference of a checkout's rows: lines and coupons are drawn at random, only a few hundred times in
# short runs.
TOLERANCE = 0.2
# A process' rows about itself do not belong to a checkout.
RARE = 0.02
_TRANSACTIONS = re.compile(r"number of transactions actually processed: (\d+)")
_FAILED = re.compile(r"number of failed transactions: (\d+)")
_RATE = re.compile(r"tps = ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Written:
    """pgbench's results: checkouts, their rate, their median latency with one client, and their cost."""

    shape: str
    hot: bool
    clients: int
    checkouts: int
    rate: float
    median_us: float | None
    used: Reading


@dataclass(slots=True)
class PgbenchDatabase:
    """A copy of the catalogue for pgbench."""

    servers: Servers
    pgbench: str
    database: Database
    coupons: int = 0
    orders: int = 0

    def run(self, shape: str, clients: int, seconds: int, *, hot: bool = False) -> Written:
        """Run a script. Raises BooksError unless every checkout that pgbench counted exists and is paid."""
        path = self.servers.folder / f"{shape}-{'hot' if hot else 'cold'}.sql"
        path.write_text(script(shape, hot=hot))
        meters = Meters(self.servers.postgres_url, self.servers.postmaster, {})
        before = meters.read()
        printed = self._pgbench(path, clients, seconds)
        used = meters.read().since(before)
        checkouts = int(_found(_TRANSACTIONS, printed))
        if int(_found(_FAILED, printed)):
            raise BooksError(f"pgbench {shape}: transactions failed: {printed}")
        self._count(checkouts)
        median = self._median() if clients == 1 else None
        return Written(shape, hot, clients, checkouts, float(_found(_RATE, printed)), median, used)

    def rows(self) -> Mapping[str, int]:
        """Return the number of rows of each table that a checkout adds to."""
        return table_rows(self.database)

    def _pgbench(self, path: Path, clients: int, seconds: int) -> str:
        command = [self.pgbench, "--no-vacuum", "--protocol=prepared", f"--client={clients}", f"--time={seconds}"]
        command += [f"--jobs={min(clients, THREADS_MAX)}", f"--file={path}", "--define=used=0"]
        command += [f"--define=clients={clients}", f"--define=first_coupon={self.coupons}"]
        if clients == 1:
            command += ["--log", f"--log-prefix={self._log_prefix()}"]
        ran = subprocess.run([*command, self.database.url], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise RuntimeError(f"pgbench ended with {ran.returncode}: {ran.stderr[-2000:]}")
        return ran.stdout

    def _log_prefix(self) -> Path:
        return self.servers.folder / "pgbench"

    def _median(self) -> float:
        """Return the median latency in us of one client, which logs each of its transactions."""
        latencies: list[int] = []
        for log in self._log_prefix().parent.glob(f"{self._log_prefix().name}.*"):
            latencies += [int(line.split()[2]) for line in log.read_text().splitlines()]
            log.unlink()
        return statistics.median(latencies)

    def _count(self, checkouts: int) -> None:
        query = """
            SELECT count(*), (SELECT coalesce(max(substr(coupon_id, 3)::int), -1) + 1 FROM coupons.coupons
                              WHERE status = 'REDEEMED')
            FROM orders.orders WHERE status = 'PAID'
        """
        with psycopg.connect(self.database.url) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        paid, self.coupons = row
        # At the end of the time, a client finishes its current checkout, so all are counted.
        if paid - self.orders != checkouts:
            raise BooksError(f"pgbench counted {checkouts} checkouts, and there are {paid - self.orders}")
        if self.coupons >= COUPONS:
            raise RuntimeError("a measurement used up all coupons: the catalogue needs more")
        self.orders = paid


@contextmanager
def pgbench_database(servers: Servers, catalogue: Catalogue, pgbench: str) -> Iterator[PgbenchDatabase]:
    """Copy the catalogue for pgbench; at the end audit its books with the product's own audit."""
    with catalogue.copy() as database:
        with psycopg.connect(database.url) as connection:
            connection.execute(SETUP.encode())
        yield PgbenchDatabase(servers, pgbench, database)
        audited(servers, database)


def table_rows(database: Database) -> Mapping[str, int]:
    """Return the number of rows of each table of the selling services, without the migrations' own tables."""
    query = """
        SELECT relnamespace::regnamespace || '.' || relname FROM pg_class
        WHERE relnamespace::regnamespace::text IN ('orders', 'products', 'coupons', 'balances')
            AND relkind IN ('r', 'p') AND NOT relispartition AND relname !~ 'yoyo'
    """
    with psycopg.connect(database.url) as connection:
        names = [row[0] for row in connection.execute(query).fetchall()]
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() for name in names}
    return {name: row[0] for name, row in counts.items() if row is not None}


def row_differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    """Return a line for each table in which pgbench's rows of a checkout differ from the product's."""
    found = []
    for table in sorted({*ours, *theirs}):
        product, pgbench = ours.get(table, 0.0), theirs.get(table, 0.0)
        if max(product, pgbench) > RARE and abs(product - pgbench) > TOLERANCE * max(product, pgbench):
            found.append(f"{table}: the product adds {product:.3f} rows a checkout, pgbench {pgbench:.3f}")
    return found


def _found(pattern: re.Pattern[str], printed: str) -> str:
    match = pattern.search(printed)
    if match is None:
        raise RuntimeError(f"pgbench printed no {pattern.pattern!r}: {printed}")
    return match[1]
