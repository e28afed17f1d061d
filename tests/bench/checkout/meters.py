"""What a measurement costs: CPU by process, transactions that write, and bytes of WAL, each as a difference."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the meters show. CPU in seconds by name of process; transactions are those that wrote something."""

    cpu: Mapping[str, float]
    transactions: int
    wal_bytes: int

    def since(self, earlier: "Reading") -> "Reading":
        """What was used since an earlier reading."""
        return Reading(
            {name: seconds - earlier.cpu.get(name, 0.0) for name, seconds in self.cpu.items()},
            self.transactions - earlier.transactions,
            self.wal_bytes - earlier.wal_bytes,
        )


@dataclass(frozen=True, slots=True)
class Meters:
    """Reads the processes named, Postgres with all its backends among them."""

    postgres_url: str
    postmaster: int
    processes: Mapping[str, int]

    def read(self) -> Reading:
        """Read them now."""
        cpu = {name: process_seconds(pid) for name, pid in self.processes.items()}
        cpu["postgres"] = postgres_seconds(self.postmaster)
        # The next transaction id counts exactly those that wrote; the statistics lag by a second and more.
        query = """
            SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                   pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint
        """
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return Reading(cpu, row[0], row[1])


def process_seconds(pid: int, *, with_ended_children: bool = False) -> float:
    """CPU that a process has used, in user and system mode; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # After the name, which may contain anything: state is field 3; utime 14, stime 15, cutime 16, cstime 17.
    fields = stat.rpartition(")")[2].split()
    count = 4 if with_ended_children else 2
    return sum(map(int, fields[11 : 11 + count])) / TICKS


def postgres_seconds(postmaster: int) -> float:
    """CPU of the server: the postmaster, its children, and the children that have ended."""
    children = sum(process_seconds(child.pid) for child in psutil.Process(postmaster).children())
    return process_seconds(postmaster, with_ended_children=True) + children
