"""Relays as processes, as in a deployment; a test pauses, kills and starts them."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.infrastructure import forks
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port


class Replica:
    """The relay as a process, as in a deployment."""

    def __init__(self, process: forks.Fork, port: int) -> None:
        self._process = process
        self._port = port

    @classmethod
    def start(cls, pipeline: Pipeline, reaper: Reaper, batch_events: int = 20) -> "Replica":
        port = free_port()
        environment = {
            **os.environ,
            "RELAY_DATABASE_URL": pipeline.url,
            "KAFKA_BOOTSTRAP_SERVERS": pipeline.kafka,
            "RELAY_TOPIC": pipeline.topic,
            "RELAY_PORT": str(port),
            "RELAY_LEASE_SECONDS": "1",
            "RELAY_BATCH_EVENTS": str(batch_events),
            "RELAY_LOG_LEVEL": "error",
        }
        return cls(forks.start("services.relay", environment=environment, reaper=reaper, sign=signal.SIGKILL), port)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process if it lives, and wait for its end."""
        self._process.kill()
        self._process.wait()

    async def serves(self) -> bool:
        """Return whether it answers: from then on it handles signals."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    async def end(self, how: signal.Signals) -> int:
        self._process.send_signal(how)
        return await asyncio.to_thread(self._process.wait, 20)


@contextmanager
def replicas(pipeline: Pipeline, reaper: Reaper, batch_events: int = 20) -> Iterator[Callable[[], Replica]]:
    """Starts replicas; all end with the test, so that none publishes a later test's events to this topic."""
    started: list[Replica] = []

    def start() -> Replica:
        started.append(Replica.start(pipeline, reaper, batch_events))
        return started[-1]

    try:
        yield start
    finally:
        for replica in started:
            replica.kill()


async def epochs(pipeline: Pipeline) -> int:
    return int(await pipeline.connection.fetchval("SELECT sum(epoch) FROM relay.shards"))


async def until_epochs(pipeline: Pipeline, goal: int, seconds: float = 20) -> None:
    async def there() -> bool:
        return await epochs(pipeline) >= goal

    await eventually(there, seconds, "take-overs")
