"""The servers of a measurement: Postgres that syncs every commit to disk, and a real Kafka."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from tests.infrastructure.broker import choose_broker
from tests.infrastructure.postgres import packaged_binaries, postmaster_of, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper

REPOSITORY = Path(__file__).parents[2]
# The same server for everything that is measured but the relay. What is not here is Postgres' default.
POSTGRES_SETTINGS = (
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_connections=300",
    "shared_buffers=1GB",
    # No measurement shall meet a checkpoint that another one caused: they are made between measurements.
    "max_wal_size=16GB",
    "checkpoint_timeout=1h",
)


class MissingError(Exception):
    """This machine lacks what a measurement needs; the message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers are, and their processes."""

    postgres_url: str
    postgres_version: str
    postmaster: int
    kafka: str
    kafka_description: str
    broker: int | None
    folder: Path
    reaper: Reaper


@contextmanager
def servers(settings: Sequence[str] = POSTGRES_SETTINGS) -> Iterator[Servers]:
    """Start both; they end with the body, however it ends. `settings` are Postgres', as name=value."""
    broker = choose_broker({**os.environ, "CI": "true"}, measured=True)  # a mock's figures would mean nothing
    binaries = system_binaries() or packaged_binaries()
    reaper = Reaper()
    try:
        with tempfile.TemporaryDirectory(prefix="order-platform-bench-") as folder:
            url = start_binaries(binaries, reaper, settings)
            kafka = broker.start(reaper)
            with psycopg.connect(url) as connection:
                version = str(_value(connection, "SELECT version()"))
                syncing = {name: _value(connection, f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
            if syncing != {"fsync": "on", "synchronous_commit": "on"}:
                raise RuntimeError(f"Postgres does not sync its commits: {syncing}")
            yield Servers(
                postgres_url=url,
                postgres_version=version,
                postmaster=postmaster_of(url),
                kafka=kafka,
                kafka_description=broker.description,
                broker=_broker_process(),
                folder=Path(folder),
                reaper=reaper,
            )
    finally:
        reaper.close()


def _value(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    found: object = row[0]
    return found


def _broker_process() -> int | None:
    """Return the broker's process id, None if it runs in its own container."""
    for child in psutil.Process().children():
        if "kafka.Kafka" in child.cmdline():
            return child.pid
    return None


def find_tool(name: str, package: str, folders: Sequence[Path] = ()) -> str:
    """Return the path of a program. Raises MissingError, which names the package that contains it."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        raise MissingError(f"{name} is missing: install it (Debian, Ubuntu: apt-get install {package})")
    return found


def find_pgbench() -> str:
    """Return the path of pgbench: in the server's folder, or on the path. Raises MissingError."""
    binaries = system_binaries()
    folders = [binaries] if binaries is not None else []
    return find_tool("pgbench", "postgresql, or postgresql-contrib", folders)


def machine() -> Mapping[str, object]:
    """Return the properties of the machine that affect a figure: processors, memory and kernel."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "cpu_model": models[0] if models else "unknown",
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": " ".join(os.uname()[:3:2]),
        "load_average": os.getloadavg(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
