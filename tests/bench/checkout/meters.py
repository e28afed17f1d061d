"""The cost of a measurement: CPU by process, transactions that write, and bytes of WAL, each as a difference."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import psycopg


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters' values: CPU in seconds by process name; transactions that wrote something; bytes of WAL."""

    cpu: Mapping[str, float]
    transactions: int
    wal_bytes: int

    def since(self, earlier: "Reading") -> "Reading":
        """Return the use since an earlier reading."""
        return Reading(
            {name: seconds - earlier.cpu.get(name, 0.0) for name, seconds in self.cpu.items()},
            self.transactions - earlier.transactions,
            self.wal_bytes - earlier.wal_bytes,
        )


@dataclass(frozen=True, slots=True)
class Meters:
    """Reads the named processes, including Postgres with all its backends."""

    postgres_url: str
    postmaster: int
    processes: Mapping[str, int]

    def read(self) -> Reading:
        """Read the meters now."""
        cpu = {name: process_seconds(pid) for name, pid in self.processes.items()}
        cpu["postgres"] = postgres_seconds(self.postmaster)
        # The next transaction id counts exactly the transactions that wrote; the statistics lag by a second or more.
        query = """
            SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                   pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint
        """
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return Reading(cpu, row[0], row[1])


def process_seconds(pid: int) -> float:
    """Return the CPU that a process has used, in user and system mode; 0 if it has ended."""
    try:
        # The clock of a process (Linux' clock_getcpuclockid): exact, while /proc counts in hundredths of a second.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def postgres_seconds(postmaster: int) -> float:
    """Return the CPU of the server: the postmaster, its children, and its ended children."""
    return family_seconds(postmaster)


def family_seconds(parent: int) -> float:
    """Return the CPU of a process, its children, and its ended children."""
    children = psutil.Process(parent).children()
    ended = psutil.Process(parent).cpu_times()
    running = sum(process_seconds(pid) for pid in (parent, *(child.pid for child in children)))
    return running + ended.children_user + ended.children_system
