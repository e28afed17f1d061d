"""A measurement of the relay: its outbox and topic, and the relays, writers and consumers that work on them."""

import os
import secrets
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from shared.postgres.migrations import migrate
from tests.bench.servers import REPOSITORY, Servers
from tests.infrastructure.broker import declare_topic
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.waiting import eventually, free_port

# Postgres' defaults, as on a server that nobody has tuned for the relay.
POSTGRES_SETTINGS = ("max_connections=100",)
PARTITIONS = 4
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement's own outbox and topic, and the processes that work on them."""

    servers: Servers
    database: Database
    topic: str
    processes: ExitStack

    def start(self, module: str, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a module of this repository as a process, which ends with the measurement."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"AUTH_MODE": "open"} | environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.servers.reaper.process(process)
        self.processes.callback(end, process)
        return process

    def relay(self, **settings: str) -> "subprocess.Popen[bytes]":
        """Start a replica of the relay, as it is deployed and with its defaults."""
        own = {
            "RELAY_DATABASE_URL": self.database.as_role("relay_service"),
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka,
            "RELAY_TOPIC": self.topic,
            "RELAY_TOPIC_PARTITIONS": str(PARTITIONS),
            "RELAY_PORT": str(free_port()),
            "RELAY_LOG_LEVEL": "error",
        }
        return self.start("services.relay", **own, **settings)

    def times(self, process: "subprocess.Popen[bytes]", path: Path, seconds: float) -> Sequence[float]:
        """Wait for a writer or consumer to end, and return the times that it wrote, by the event's index."""
        if process.wait(seconds) != 0:
            raise RuntimeError(f"{path.name} was not finished: status {process.returncode}")
        times = array("d")
        times.frombytes(path.read_bytes())
        return times

    def consumer(self, count: int, seconds: float) -> tuple["subprocess.Popen[bytes]", Path]:
        """Start a consumer of `count` events; it reads when this returns."""
        path = self.servers.folder / f"received-{self.topic}"
        arguments = (self.servers.kafka, self.topic, str(count), str(seconds), str(path))
        process = self.start("tests.bench.relay.consumer", *arguments)
        until_told(process)
        return process, path

    async def taken(self) -> None:
        """Wait until relays hold every shard."""
        connection = await asyncpg.connect(self.database.url)
        held = "SELECT bool_and(holder IS NOT NULL) FROM relay.shards"
        try:
            await eventually(lambda: connection.fetchval(held), START_SECONDS, "every shard taken")
        finally:
            await connection.close()


def until_told(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the line that a process prints when it is ready."""
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"a process ended before it was ready: status {process.wait()}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and see it gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def measurement(servers: Servers) -> Iterator[Measurement]:
    """Open a fresh database and a new topic; end every process afterwards."""
    topic = f"orders.bench-{secrets.token_hex(4)}"
    declare_topic(servers.kafka, topic, PARTITIONS)
    with fresh_database(servers.postgres_url) as database, ExitStack() as processes:
        migrate(database.as_role("order_migrator"), "orders", REPOSITORY / "services" / "order" / "migrations")
        migrate(database.as_role("relay_migrator"), "relay", REPOSITORY / "services" / "relay" / "migrations")
        yield Measurement(servers, database, topic, processes)
