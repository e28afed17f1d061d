"""The relay's HTTP API: the topic's schemas, readiness, and the state of each shard."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic import RootModel

from services.relay import schemas, store
from services.relay.kafka.admin import Broker
from services.relay.kafka.topics import TopicsRefused
from services.relay.publishing.shard_publisher import ShardPublisher
from shared.contracts.types import Wire
from shared.http.asyncapi_page import asyncapi_page
from shared.http.pages import HEADERS
from shared.http.problems import NotFound
from shared.http.readiness import Check, database_checks
from shared.http.routes import Route
from shared.http.server import reply
from shared.identity.callers import PUBLIC
from shared.postgres.clocks import HostClock
from shared.postgres.connections import Session
from shared.process.build import VERSION

DESCRIPTION = "Carries the order service's outbox to Kafka. [What the topics have](/asyncapi)."


class JsonSchema(RootModel[dict[str, Any]]):
    """A JSON Schema, 2020-12."""


class EventType(Wire):
    """A type of event, and where the schema of its data is."""

    type: str
    path: str


class EventTypes(Wire):
    """Every type of event that there is on the topic."""

    items: list[EventType]


class AsyncApi(Wire):
    """An AsyncAPI 3 document."""

    asyncapi: str
    info: dict[str, Any]
    defaultContentType: str  # noqa: N815 - AsyncAPI's name
    channels: dict[str, Any]
    operations: dict[str, Any]
    components: dict[str, Any]


class NotPublishing(Exception):  # noqa: N818 - the answer of a check
    """Some shards are not published."""


def routes(topic: str) -> list[Route]:
    """Return the routes that describe the topic for consumers."""
    document = schemas.asyncapi(topic, VERSION)
    by_type = schemas.schemas()

    async def show_asyncapi(_request: web.Request) -> web.Response:
        return reply(document)

    page = asyncapi_page(document, "/asyncapi.json")

    async def show_page(_request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers=HEADERS)

    async def list_schemas(_request: web.Request) -> web.Response:
        return reply({"items": [{"type": type_, "path": f"/schemas/{type_}.json"} for type_ in by_type]})

    async def show_schema(request: web.Request) -> web.Response:
        schema = by_type.get(request.match_info["type"])
        if schema is None:
            raise NotFound("There is no such type of event; /schemas lists them.")
        return reply(schema)

    one = "/schemas/{type}.json"
    return [
        Route(
            "GET",
            "/asyncapi.json",
            PUBLIC,
            show_asyncapi,
            "What the topic holds, as AsyncAPI 3",
            {200: AsyncApi},
        ),
        Route("GET", "/asyncapi", PUBLIC, show_page, "The same for people", {200: None}, is_page=True),
        Route("GET", "/schemas", PUBLIC, list_schemas, "List the types of events", {200: EventTypes}),
        Route(
            "GET",
            one,
            PUBLIC,
            show_schema,
            "The JSON Schema of an event's data",
            {200: JsonSchema},
            (NotFound,),
        ),
    ]


def checks(
    readiness: Session, broker: Broker, publishers: Callable[[], Sequence[ShardPublisher]]
) -> Mapping[str, Check]:
    """Return the checks of /readyz; `readiness` is the connection for its query."""

    async def shards() -> None:
        failing = [publisher for publisher in publishers() if publisher.failures.failing]
        if failing:
            raise NotPublishing("; ".join(f"shard {publisher.shard} is {publisher.state}" for publisher in failing))

    async def topics() -> None:
        if broker.view.refused is not None:
            raise TopicsRefused(broker.view.refused)

    database = database_checks(readiness, store.SQL, HostClock())
    return {**database, "broker": broker.check, "topics": topics, "shards": shards}


def details(broker: Broker, publishers: Callable[[], Sequence[ShardPublisher]]) -> Callable[[], Mapping[str, Any]]:
    """Return the details of /readyz."""
    return lambda: {
        "shards": {str(publisher.shard): publisher.state for publisher in sorted(publishers(), key=lambda d: d.shard)},
        "topics": {"partitions": broker.view.partitions, "doubts": broker.view.doubts},
    }
