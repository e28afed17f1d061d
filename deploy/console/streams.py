"""Sends the figures to browsers as server-sent events, which a browser that reconnects resumes where it was."""

import asyncio
from collections.abc import Callable, Sequence

import orjson
from aiohttp import web

from deploy.console.figures.sampler import Point, Sampler

RETRY_MS = 2000  # after which a browser connects again
WRITE_SECONDS = 10.0  # a reader that takes longer for an event is dropped: it can resume
DIGITS = 4


class Streams:
    """The streams of all browsers, at most `streams_max`."""

    def __init__(self, streams_max: int) -> None:
        self._max = streams_max
        self.open = 0

    async def serve(self, request: web.Request, sampler: Sampler, is_allowed: Callable[[], bool]) -> web.StreamResponse:
        """Send the figures until the browser is gone, the process ends, or `is_allowed` says no."""
        if self.open >= self._max:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "30"})
        self.open += 1
        try:
            return await _serve(request, sampler, is_allowed)
        finally:
            self.open -= 1


async def _serve(request: web.Request, sampler: Sampler, is_allowed: Callable[[], bool]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    await _send(request, response, f"retry: {RETRY_MS}\n\n".encode())
    last = resumed(sampler, request.headers.get("Last-Event-ID"))
    if last is None:
        points = sampler.since(0)
        last = points[-1].number if points else 0
        await _send(request, response, event(sampler, "all", last, columns(points)))
    while not sampler.closed:
        for point in sampler.since(last):
            last = point.number
            await _send(request, response, event(sampler, "point", last, columns([point])))
        await sampler.wait(last)
        if not is_allowed():
            break
    return response


def resumed(sampler: Sampler, last_event_id: str | None) -> int | None:
    """Return the number of the last point that a browser has; None if it has none that continues ours."""
    run, _, number = (last_event_id or "").partition("-")
    if run != sampler.run_id or not (number.isascii() and number.isdigit() and len(number) <= 15):
        return None
    last = int(number)
    oldest = sampler.points[0].number if sampler.points else 1
    newest = sampler.points[-1].number if sampler.points else 0
    return last if oldest - 1 <= last <= newest else None


def event(sampler: Sampler, name: str, number: int, data: object) -> bytes:
    """Return an event. Its id says which process numbered the point."""
    return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (sampler.run_id.encode(), number, name.encode(), orjson.dumps(data))


def columns(points: Sequence[Point]) -> dict[str, object]:
    """Return points by figure, and who is away at the last."""
    names = points[-1].figures if points else {}
    return {
        "at": [round(point.at, 1) for point in points],
        "figures": {name: [_rounded(point.figures.get(name)) for point in points] for name in names},
        "away": [replica.shown for replica in points[-1].away] if points else [],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send bytes. Raises ConnectionResetError, after it has cut off a reader that is too slow."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from None
