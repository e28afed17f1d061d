"""The shared server with a few test routes, on an event loop in a separate thread."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from pydantic_settings import SettingsConfigDict

from shared.contracts.types import NoBody, Page, Wire
from shared.http.problems import NotFound
from shared.http.routes import Route
from shared.http.server import HttpServer, reply
from shared.http.wire import path_id, read_body, read_query
from shared.identity.authenticator import OpenAuthenticator
from shared.identity.callers import SIGNED_IN
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop
from shared.refusals import Unavailable
from tests.infrastructure.waiting import free_port, listens, wait_until

START_SECONDS = 10
STOP_SECONDS = 10
BODY_SECONDS = 1.0  # how long a body may take

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Settings(ServiceSettings):
    """The settings of the test server."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True)


class Thing(Wire):
    """The resource of the test routes."""

    name: str


class Things(Wire):
    """A list of things."""

    items: list[str]


@dataclass(frozen=True, slots=True)
class Served:
    """A server and its log. A request to `…/slow` sets `begun` and waits for `finish`.

    `stop` belongs to `loop`, which runs in another thread.
    """

    url: str
    logs: list[Any]
    begun: threading.Event
    finish: threading.Event
    stop: Stop
    loop: asyncio.AbstractEventLoop

    def bugs(self) -> list[Mapping[str, Any]]:
        """Return the log lines about bugs."""
        return [line for line in self.logs if line["event"] == "request.failed" or line["log_level"] == "error"]


def routes(path: str, begun: threading.Event, finish: threading.Event) -> list[Route]:
    """Return the routes: a list, an entry, a creation, an act without a body, one that waits, one without capacity."""

    async def create(request: web.Request) -> web.Response:
        thing = await read_body(request, Thing, timeout_seconds=BODY_SECONDS)
        return reply({"name": thing.name}, 201, {"Location": f"{path}/{thing.name}"})

    async def show_all(request: web.Request) -> web.Response:
        read_query(request, Page)
        return reply({"items": ["cup"]})

    async def show(request: web.Request) -> web.Response:
        return reply({"name": path_id(request, "thing_id", NotFound)})

    async def act(request: web.Request) -> web.Response:
        await read_body(request, NoBody, timeout_seconds=BODY_SECONDS)
        return reply({"name": path_id(request, "thing_id", NotFound)})

    async def wait(_request: web.Request) -> web.Response:
        begun.set()
        await asyncio.to_thread(finish.wait, STOP_SECONDS)
        return reply({"name": "slow"})

    def refuse(_pending: int) -> None:
        raise Unavailable("No room.")

    async def crowd(_request: web.Request) -> web.Response:
        raise Unavailable("No room, says the handler.")

    one = f"{path}/{{thing_id}}"
    return [
        Route("POST", path, SIGNED_IN, create, "Create a thing", {201: Thing}, body=Thing),
        Route("GET", path, SIGNED_IN, show_all, "List things", {200: Things}, query=Page),
        Route("GET", one, SIGNED_IN, show, "Get a thing", {200: Thing}),
        Route("POST", f"{one}/act", SIGNED_IN, act, "Act on a thing", {200: Thing}, body=NoBody),
        Route("GET", f"{path}/slow", SIGNED_IN, wait, "Wait", {200: Thing}),
        Route(
            "POST",
            f"{path}/crowd",
            SIGNED_IN,
            crowd,
            "Find no room",
            {200: Thing},
            body=Thing,
            check_capacity=refuse,
        ),
    ]


@contextmanager
def serving(make_loop: LoopFactory, path: str = "/v1/things", **chosen: Any) -> Iterator[Served]:
    """Serve on an event loop of this kind until the body ends. `chosen`: further settings."""
    port = free_port()
    settings = Settings(port=port, database_url="postgresql://nowhere/none", shutdown_seconds=1, **chosen)
    begun, finish = threading.Event(), threading.Event()
    stop = Stop()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await HttpServer("things", "Things.", settings, OpenAuthenticator(), routes(path, begun, finish), {}).run(stop)

    def run() -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(serve())

    with structlog.testing.capture_logs() as logs:
        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: listens("127.0.0.1", port), START_SECONDS, "the server")
        try:
            yield Served(f"http://127.0.0.1:{port}", logs, begun, finish, stop, loops[0])
        finally:  # a thread that stays would keep the process of a failed test
            with suppress(RuntimeError):  # the test may have stopped it
                loops[0].call_soon_threadsafe(stop.set)
            thread.join(STOP_SECONDS)
        assert not thread.is_alive()
