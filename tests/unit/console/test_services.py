"""The page of the services is shown whatever its calls to the order service end with; metrics describe a replica."""

import time
from typing import Any

import aiohttp
import pytest

from deploy.client.problems import NoFinalAnswer
from deploy.console.figures.exposition import Key
from deploy.console.figures.readings import Look, Reading
from deploy.console.figures.replicas import Replica
from deploy.console.pages.services import Status, limits, listed
from deploy.orderctl import calls


class Visit:
    """Stands in for a visit whose calls end with `error`, if there is one."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def platform(self) -> "Visit":
        return self

    async def admin(self, _call: object) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        return {"items": [{"version": 1}]}


@pytest.mark.parametrize("error", [NoFinalAnswer(None, None), aiohttp.InvalidURL("http://"), TimeoutError()], ids=type)
async def test_list_that_cannot_be_read_is_none(error: Exception) -> None:
    visit: Any = Visit(error)
    assert await listed(visit, calls.VERSIONS) is None


async def test_list_that_can_be_read_is_returned() -> None:
    visit: Any = Visit(None)
    assert await listed(visit, calls.VERSIONS) == [{"version": 1}]


BUILD = Key("build_info", (("revision", "0123abcd"), ("version", "1.2.0")))
STARTED = Key("process_start_time_seconds", ())
CPU = Key("process_cpu_seconds_total", ())


def status(**reading: Any) -> Status:
    """Return a replica that is ready, and its reading, if there is one."""
    known = Reading(**reading) if reading else None
    return Status(Replica("order", "http://order-1:8000"), "ready", {}, reading=known)


def test_replica_is_described_by_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_060.0)
    before, now = Look(0.0, {CPU: 1.0}), Look(2.0, {STARTED: 1_000.0, CPU: 2.0, BUILD: 1.0})
    known = status(before=before, now=now)
    assert known.place == "order-1:8000"
    assert known.build == dict(BUILD.labels)
    assert known.age_seconds == 60.0
    assert known.cpu == 0.5
    ahead = status(before=None, now=Look(2.0, {STARTED: 1_100.0}))
    assert (ahead.age_seconds, ahead.cpu, ahead.build) == (0.0, None, {})


def test_of_a_replica_without_a_reading_nothing_is_known() -> None:
    unknown = status()
    assert (unknown.build, unknown.age_seconds, unknown.cpu) == ({}, None, None)


def test_limits_of_a_service_are_those_it_has() -> None:
    running, others = Key("sagas_running_max", (("what", "all"),)), Key("relay_topic_partitions", ())
    connections = Key("http_connections_max", (("listener", "public"),))
    known = status(before=None, now=Look(2.0, {running: 5.0, others: 4.0, connections: 9.0}))
    assert limits([known, status()]) == [
        ("order", "http_connections_max", "public", 9.0),
        ("order", "sagas_running_max", "all", 5.0),
    ]
