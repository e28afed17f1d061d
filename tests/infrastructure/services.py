"""A service in the test's event loop, on a free port and a migrated schema: real HTTP and Postgres, no process."""

import asyncio
import functools
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from shared.contracts.commands import COMMANDS_PATH
from shared.postgres.migrations import migrate
from shared.process.stopping import Stop
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.waiting import eventually, free_port, listens

SERVICES_FOLDER = Path(__file__).parents[2] / "services"
SCHEMAS = {"order": "orders", "product": "products", "coupon": "coupons", "balance": "balances", "relay": "relay"}
START_SECONDS = 10
Serve = Callable[[Any, Any], Awaitable[None]]


def migrate_service(name: str, database: Database, **parameters: str) -> str:
    """Apply a service's migrations as its migrator, as a deployment does, and return the address for the service."""
    if not database.migrated:
        given = {f"{SCHEMAS[name]}.{parameter}": value for parameter, value in parameters.items()}
        migrate(database.as_role(f"{name}_migrator"), SCHEMAS[name], SERVICES_FOLDER / name / "migrations", given)
    return database.as_role(f"{name}_service")


@contextmanager
def templates(server_url: str, migrated_url: str | None) -> Iterator[Callable[..., Database]]:
    """Yield what returns a database to copy: one with roles only, or with the tables of all services as well.

    A copy takes a tenth of the time that roles and migrations take. `migrated_url`: a database like the second one.
    """
    with ExitStack() as stack:

        @functools.cache
        def template(*, migrated: bool) -> Database:
            if not migrated:
                return stack.enter_context(fresh_database(server_url))
            if migrated_url is not None:
                return Database(migrated_url, migrated=True)
            database = stack.enter_context(fresh_database(server_url, template=template(migrated=False)))
            for name in SCHEMAS:
                migrate_service(name, database)
            return replace(database, migrated=True)

        yield template


def queries_of(name: str) -> Mapping[str, str]:
    """Return all queries of a service by name, including those that participants share."""
    queries: Mapping[str, str] = importlib.import_module(f"services.{name}.store").SQL
    return queries


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer; `body` is the decoded JSON."""

    status: int
    body: Any
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """Return the problem's slug; fail unless the answer has the format of every error."""
        assert self.content_type == "application/problem+json", self
        assert {"type", "title", "status", "detail", "instance"} <= set(self.body), self
        assert self.body["status"] == self.status, self
        return str(self.body["type"]).removeprefix("/problems/")


class Client:
    """Calls the service at `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def call(self, method: str, path: str | URL, body: Any = None, **options: Any) -> Answer:
        """Send `body` as JSON, or a request given by `options` (aiohttp's), and return the answer."""
        if body is not None:
            options["json"] = body
        async with self._session.request(method, path, **options) as response:
            body = await response.json(content_type=None)
            return Answer(response.status, body, response.content_type, response.headers)

    async def get(self, path: str, **params: Any) -> Any:
        """GET; the status must be 200; return the body."""
        answer = await self.call("GET", path, params={name: str(value) for name, value in params.items()})
        assert answer.status == 200, answer
        return answer.body

    async def post(self, path: str, body: Any, **options: Any) -> Any:
        """POST; the status must be 200 or 201; return the body."""
        answer = await self.call("POST", path, body, **options)
        assert answer.status in (200, 201), answer
        return answer.body

    async def all_items(self, path: str, **params: Any) -> list[Any]:
        """Return all items of a list, read page by page."""
        page = await self.get(path, **params)
        items: list[Any] = list(page["items"])
        while page["next_cursor"]:
            page = await self.get(path, **params, cursor=page["next_cursor"])
            items += page["items"]
        return items

    async def holds(self, *orders: str) -> dict[str, dict[str, int | str]]:
        """Return what the participant holds now for each of these orders, omitting orders without a hold."""
        pages = [await self.get("/internal/v1/holds", order_id=order) for order in orders]
        return {item["order_id"]: item["holds"] for page in pages for item in page["items"]}

    async def command(self, *commands: Mapping[str, Any]) -> Sequence[Any]:
        """Run one batch of commands and return its outcomes."""
        outcomes: Sequence[Any] = (await self.post(COMMANDS_PATH, {"commands": commands}))["outcomes"]
        return outcomes


@asynccontextmanager
async def serving(name: str, database_url: str | None, **settings: Any) -> AsyncIterator[Client]:
    """Serve `services.<name>` until the body ends and yield a client of it; enter it twice for two replicas."""
    main = importlib.import_module(f"services.{name}.__main__")
    port = free_port()
    chosen = main.Settings(port=port, database_url=database_url, **settings)
    async with running(main.serve, chosen) as client:
        yield client


@asynccontextmanager
async def running(serve: Serve, settings: Any) -> AsyncIterator[Client]:
    """Run a service's `serve` until the body ends and yield a client of it."""
    name, port = type(settings).__module__, settings.port
    stop = Stop()
    server = asyncio.ensure_future(serve(settings, stop))

    async def accepts() -> bool:
        if server.done():
            server.result()
        return listens("127.0.0.1", port)

    try:
        await eventually(accepts, START_SECONDS, f"the start of {name}")
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(url) as session:
            yield Client(session, url)
    finally:
        stop.set()
        await server
