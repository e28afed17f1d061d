"""A session discards the server's plans as its work grows; a pool drops a connection whose check was cancelled."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.postgres import connections
from shared.postgres.connections import REPLAN_SECONDS, Pool, Session
from shared.process.settings import ServiceSettings


class Plans:
    """Stands in for a connection: counts what is executed."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.lost: list[str] = []

    async def execute(self, statement: str) -> None:
        self.executed.append(statement)

    async def lost_settings(self) -> list[str]:
        return self.lost


async def test_plans_are_made_anew_at_twice_the_transactions_and_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    session = Session(ServiceSettings(port=1, database_url="postgresql://nowhere"), "test")
    connection: Any = Plans()
    counts: list[int] = []
    for transaction in range(1, 17):
        await session._replan(connection)
        counts.extend([transaction] * (len(connection.executed) - len(counts)))
    assert counts == [1, 2, 4, 8, 16]
    now += REPLAN_SECONDS - 1
    await session._replan(connection)
    assert len(connection.executed) == 5
    now += 1
    await session._replan(connection)
    assert connection.executed == ["DISCARD PLANS"] * 6


async def test_session_without_its_settings_is_reported_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REPLAN_SECONDS", 0.0)  # each time
    session = Session(ServiceSettings(port=1, database_url="postgresql://nowhere"), "a pooled session")
    connection: Any = Plans()
    logged = []
    for lost in ([], ["jit"], ["jit"], [], ["jit", "enable_seqscan"]):
        connection.lost = lost
        with capture_logs() as lines:
            await session._replan(connection)
        logged.append([(line["event"], line["settings"]) for line in lines])
    event = "session.settings_lost"
    assert logged == [[], [(event, ["jit"])], [], [], [(event, ["jit", "enable_seqscan"])]]
    labels = {"session": "a pooled session"}
    assert REGISTRY.get_sample_value("postgres_settings_lost_total", labels) == 3


class Silent:
    """Stands in for the driver's pool and for its connection, whose server does not answer."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.terminated = False

    async def acquire(self, timeout: float) -> "Silent":  # noqa: ARG002, ASYNC109 - the signature is the driver's
        return self

    async def takes_writes(self, *, within_seconds: float) -> bool:  # noqa: ARG002 - as a connection's
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def terminate(self) -> None:
        self.terminated = True


async def test_pool_drops_a_connection_whose_check_was_cancelled() -> None:
    pool = Pool(ServiceSettings(port=1, database_url="postgresql://nowhere"), "test")
    silent: Any = Silent()
    pool._pool = silent
    acquiring = asyncio.create_task(pool._acquire())
    await silent.asked.wait()
    acquiring.cancel()
    await asyncio.wait([acquiring])
    assert acquiring.cancelled()
    assert silent.terminated, "the pool would never lend it again"


class Closing:
    """Stands in for a connection or the driver's pool. Its normal close raises `error` if there is one."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.terminated = False

    async def close(self, timeout: float = 0) -> None:  # noqa: ARG002, ASYNC109 - the signature is the driver's
        if self._error is not None:
            raise self._error

    def terminate(self) -> None:
        self.terminated = True


@pytest.mark.parametrize("error", [None, TimeoutError(), ConnectionResetError(), asyncpg.InterfaceError("")], ids=repr)
async def test_connection_that_cannot_be_closed_normally_is_dropped(error: Exception | None) -> None:
    connection: Any = Closing(error)
    await connections.close(connection, 1)
    assert connection.terminated is (error is not None)


@pytest.mark.parametrize("error", [None, TimeoutError(), ConnectionResetError()], ids=repr)
async def test_pool_that_cannot_be_closed_normally_is_dropped(error: Exception | None) -> None:
    pool = Pool(ServiceSettings(port=1, database_url="postgresql://nowhere"), "test")
    closing: Any = Closing(error)
    pool._pool = closing
    await pool.__aexit__()
    assert closing.terminated is (error is not None)


def test_reconnects_of_a_session_are_counted_from_zero_on() -> None:
    Session(ServiceSettings(port=1, database_url="postgresql://nowhere"), "never broken")
    assert REGISTRY.get_sample_value("postgres_reconnects_total", {"session": "never broken"}) == 0
