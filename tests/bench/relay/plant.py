"""The servers and processes of a measurement: Postgres that syncs, a real Kafka, relays, writers and consumers."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from shared.migrations import migrate
from tests.infrastructure.broker import choose_broker, declare_topic
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port

REPOSITORY = Path(__file__).parents[3]
PARTITIONS = 4
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Servers:
    """Where a measurement's servers are."""

    postgres: str
    kafka: str
    reaper: Reaper
    folder: Path


@contextmanager
def servers() -> Iterator[Servers]:
    """Start Postgres and Kafka, or take those that TEST_DATABASE_URL and TEST_KAFKA_BOOTSTRAP_SERVERS name."""
    broker = choose_broker({**os.environ, "CI": "true"})  # a mock's figures would tell nothing
    reaper = Reaper()
    try:
        with tempfile.TemporaryDirectory(prefix="order-platform-bench-") as folder:
            yield Servers(start_postgres(reaper), broker.start(reaper), reaper, Path(folder))
    finally:
        reaper.close()


def start_postgres(reaper: Reaper) -> str:
    """Start a server that syncs: a commit that is not on disk costs nothing, so it would tell nothing."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        return given
    return start_binaries(system_binaries() or packaged_binaries(), reaper, ["max_connections=100"])


@dataclass(frozen=True, slots=True)
class Scene:
    """One measurement's own outbox and topic, and the processes at work on them."""

    servers: Servers
    database: Database
    topic: str
    processes: ExitStack

    def start(self, module: str, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a module of this repository as a process, which ends with the scene."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            env=os.environ | environment,
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
        """The moments that a writer or consumer wrote down, by the event's index, once it has ended."""
        if process.wait(seconds) != 0:
            raise RuntimeError(f"{path.name} was not finished: status {process.returncode}")
        moments = array("d")
        moments.frombytes(path.read_bytes())
        return moments

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
def scene(servers: Servers) -> Iterator[Scene]:
    """A fresh database and a topic of its own; afterwards nobody is left at work."""
    topic = f"orders.bench-{secrets.token_hex(4)}"
    declare_topic(servers.kafka, topic, PARTITIONS)
    with fresh_database(servers.postgres) as database, ExitStack() as processes:
        migrate(database.as_role("order_service"), "orders", REPOSITORY / "services" / "order" / "migrations")
        migrate(database.as_role("relay_service"), "relay", REPOSITORY / "services" / "relay" / "migrations")
        yield Scene(servers, database, topic, processes)
