"""How the reference consumer's process stops. Neither its database nor its broker is there."""

import asyncio
import os
import signal
from typing import Any

import aiohttp
import pytest

from deploy.consumer import __main__ as module
from deploy.consumer.__main__ import Exit, serve
from deploy.consumer.completeness import Completeness
from deploy.consumer.reader import Reader
from deploy.consumer.settings import ConsumerSettings
from deploy.consumer.stopping import Stop
from tests.infrastructure.waiting import eventually, free_port, listens

SECONDS = 3.0


@pytest.fixture
def settings() -> ConsumerSettings:
    nowhere = {"database_url": "postgresql://nobody@127.0.0.1:1/x", "kafka_bootstrap_servers": "127.0.0.1:1"}
    return ConsumerSettings.model_validate({**nowhere, "port": free_port()})


class Death(BaseException):
    """What no loop survives."""


class LogWriter:
    """Stands in for the log's."""

    def __init__(self) -> None:
        self.flushed = False

    def flush(self) -> None:
        self.flushed = True


async def test_loop_that_dies_stops_the_process(settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(_: Completeness) -> None:
        raise Death

    monkeypatch.setattr(Completeness, "measure", die)
    stop = Stop()
    with pytest.raises(BaseExceptionGroup):
        await asyncio.wait_for(serve(settings, stop), SECONDS)
    assert stop.is_set(), "readiness and the bound of the stop need it"
    writer: Any = LogWriter()
    assert await asyncio.wait_for(module._serve(settings, writer), SECONDS) == Exit.TASK_DIED


async def test_stop_that_hangs_ends_the_process_with_its_log_written(
    settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: ConsumerSettings, stop: asyncio.Event) -> None:
        stop.set()
        await asyncio.Event().wait()

    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(os, "_exit", ended.set_result)
    monkeypatch.setattr(module, "STOP_MAX_SECONDS", 0.01)
    monkeypatch.setattr(module, "serve", hang)
    writer: Any = LogWriter()
    serving = asyncio.create_task(module._serve(settings, writer))
    assert await asyncio.wait_for(ended, 1) == Exit.STOPPED_LATE
    assert writer.flushed
    serving.cancel()
    await asyncio.wait([serving])


async def test_stop_cancels_the_loops_and_lets_the_reader_complete_its_batch(
    settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    reading, read_on, completed = (asyncio.Event() for _ in range(3))
    measuring, cancelled = asyncio.Event(), asyncio.Event()

    async def read(_: Reader) -> None:
        reading.set()
        await read_on.wait()
        completed.set()

    async def measure(_: Completeness) -> None:
        measuring.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    monkeypatch.setattr(Reader, "read", read)
    monkeypatch.setattr(Completeness, "measure", measure)
    serving = asyncio.create_task(serve(settings, stop))
    async with asyncio.timeout(SECONDS):
        await reading.wait()
        await measuring.wait()
        stop.set()
        await cancelled.wait()
        read_on.set()
        await serving
    assert completed.is_set()


async def test_sigterm_makes_the_consumer_unready_while_it_serves_until_the_next(settings: ConsumerSettings) -> None:
    chosen = settings.model_copy(update={"stop_delay_seconds": 15.0})
    writer: Any = LogWriter()
    serving = asyncio.create_task(module._serve(chosen, writer))

    async def accepts() -> bool:
        return listens("127.0.0.1", chosen.port)

    await eventually(accepts, SECONDS, "the listener")
    os.kill(os.getpid(), signal.SIGTERM)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{chosen.port}/readyz") as response:
            assert (response.status, response.headers["Connection"]) == (503, "close")
            assert (await response.json())["checks"]["process"] == "is stopping"
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(serving, SECONDS) == Exit.DONE
