"""The figures reach browsers as events; a browser that reconnects resumes; slow and surplus readers are dropped."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from deploy.console import streams
from deploy.console.streams import resumed
from tests.infrastructure.waiting import eventually
from tests.integration.console.serving import Browser, console

SECONDS = 10.0


class Event(NamedTuple):
    id_: str
    name: str
    data: dict[str, Any]


class Stream:
    """The events of an open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def event(self) -> Event:
        """Return the next event."""
        async with asyncio.timeout(SECONDS):
            text = (await self._response.content.readuntil(b"\n\n")).decode()
            if text.startswith("retry: "):
                return await self.event()
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
        return Event(fields["id"], fields["event"], json.loads(fields["data"]))

    async def ended(self) -> bool:
        """Return whether the server has ended it."""
        async with asyncio.timeout(SECONDS):
            return await self._response.content.read() == b""


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with console(streams_max=2) as found:
        yield found


@asynccontextmanager
async def listening(browser: Browser, last: str | None = None) -> AsyncIterator[Stream]:
    headers = {} if last is None else {"Last-Event-ID": last}
    async with browser.session.get(f"{browser.url}/live/stream", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response)


async def test_stream_begins_with_all_points_and_goes_on_with_each(browser: Browser) -> None:
    sampler = browser.parts.sampler
    await sampler.round()
    await sampler.round()
    async with listening(browser) as stream:
        first = await stream.event()
        assert (first.id_, first.name) == (f"{sampler.run_id}-2", "all")
        assert len(first.data["at"]) == len(first.data["figures"]["latency.p99"]) == 2
        assert first.data["away"][0] == "order http://127.0.0.1:1"
        await sampler.round()
        second = await stream.event()
        assert (second.id_, second.name, len(second.data["at"])) == (f"{sampler.run_id}-3", "point", 1)


async def test_browser_that_reconnects_gets_what_it_missed_once(browser: Browser) -> None:
    sampler = browser.parts.sampler
    for _ in range(4):
        await sampler.round()
    async with listening(browser, f"{sampler.run_id}-2") as stream:
        events = [await stream.event() for _ in range(2)]
    assert [(event.id_, event.name) for event in events] == [
        (f"{sampler.run_id}-3", "point"),
        (f"{sampler.run_id}-4", "point"),
    ]


@pytest.mark.parametrize(
    "last", ["another-2", "", "x", "{run}-", "{run}-x", "{run}-99", "{run}--1", "{run}-9999999999999999"]
)
async def test_id_that_does_not_continue_ours_gets_all_points(browser: Browser, last: str) -> None:
    sampler = browser.parts.sampler
    for _ in range(3):
        await sampler.round()
    async with listening(browser, last.replace("{run}", sampler.run_id)) as stream:
        assert (await stream.event()).name == "all"


async def test_browser_that_missed_more_than_is_kept_gets_all_points(browser: Browser) -> None:
    sampler = browser.parts.sampler
    maximum = sampler.points.maxlen
    assert maximum is not None
    for _ in range(maximum + 10):
        await sampler.round()
    assert resumed(sampler, f"{sampler.run_id}-9") is None
    assert resumed(sampler, f"{sampler.run_id}-10") == 10


async def test_before_the_first_point_a_stream_waits_for_it(browser: Browser) -> None:
    async with listening(browser) as stream:
        assert (await stream.event()).data["at"] == []
        await browser.parts.sampler.round()
        assert (await stream.event()).name == "point"


async def test_stream_beyond_the_maximum_is_refused_until_another_ends(browser: Browser) -> None:
    async with listening(browser):
        async with listening(browser):
            answer = await browser.get("/live/stream")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "30")

        async def free() -> bool:
            await browser.parts.sampler.round()  # a stream notices at the next point that its browser is gone
            return browser.parts.streams.open == 1

        await eventually(free, SECONDS, "the end of a stream")
        async with listening(browser) as stream:
            assert (await stream.event()).name == "all"


async def test_slow_reader_is_cut_off(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(streams, "event", lambda *_: b"data: %s\n\n" % (b"x" * 16_000_000))  # more than any buffer
    host, port = browser.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(f"GET /live/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())

        async def begun() -> bool:
            return browser.parts.streams.open == 1

        async def dropped() -> bool:
            return browser.parts.streams.open == 0

        await eventually(begun, SECONDS, "the stream")
        await eventually(dropped, SECONDS, "the end of the stream of a slow reader")


async def test_stream_ends_with_the_process(browser: Browser) -> None:
    async with listening(browser) as stream:
        await stream.event()
        browser.parts.sampler.close()
        assert await stream.ended()


async def test_other_sites_take_no_streams(browser: Browser) -> None:
    answer = await browser.get("/live/stream", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})
    assert answer.status == 403
    assert browser.parts.streams.open == 0
