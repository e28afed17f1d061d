"""A database that hangs: every call of every service is answered by its deadline, readiness within a second, and all of
it is as before when the database goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop

from deploy.consumer import __main__ as consumer
from deploy.consumer.settings import ConsumerSettings
from services.relay import process as relay
from services.relay.settings import RelaySettings
from shared.migrations import migrate
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.postgres import packaged_binaries, paused, start_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Answer, Client, migrate_service, running, serving
from tests.infrastructure.waiting import eventually, free_port

DEADLINE_SECONDS = 1.0
READY_SECONDS = 1.0
LATE_SECONDS = 1.0  # an answer may come so long after its deadline
HEAL_SECONDS = 10
CONSUMER_MIGRATIONS = Path(__file__).parents[2] / "deploy" / "consumer" / "migrations"
NEW_ORDER = {"user_id": "ann", "lines": [{"product_id": "thing", "quantity": 1}]}
ORDER = str(uuid4())


@dataclass(frozen=True, slots=True)
class Call:
    """A call that gets past the checks of its input."""

    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def commands(type_: str) -> Call:
    """A batch with an undo, which every order may get."""
    return Call("/internal/v1/commands", {"commands": [{"type": type_, "order_id": ORDER}]})


PARTICIPANT = {
    "GET /internal/v1/outcomes/{order_id}": Call(f"/internal/v1/outcomes/{ORDER}"),
    "GET /internal/v1/holds": Call("/internal/v1/holds"),
}
# Every call that asks the database, by service and by its name in the OpenAPI document.
CALLS: Mapping[str, Mapping[str, Call]] = {
    "order": {
        "POST /v1/orders": Call("/v1/orders", NEW_ORDER, {"Idempotency-Key": ORDER}),
        "GET /v1/orders": Call("/v1/orders?user_id=ann"),
        "GET /v1/orders/{order_id}": Call(f"/v1/orders/{ORDER}"),
        "POST /v1/orders/{order_id}/payment": Call(f"/v1/orders/{ORDER}/payment"),
        "POST /v1/orders/{order_id}/cancel": Call(f"/v1/orders/{ORDER}/cancel", {}, {"Idempotency-Key": "x"}),
        "GET /v1/orders/{order_id}/timeline": Call(f"/v1/orders/{ORDER}/timeline"),
    },
    "product": {
        "POST /v1/products": Call("/v1/products", {"name": "Thing", "price": 1, "stock": 1}),
        "GET /v1/products": Call("/v1/products"),
        "GET /v1/products/{product_id}": Call("/v1/products/thing"),
        "PATCH /v1/products/{product_id}": Call("/v1/products/thing", {"price": 2}),
        "POST /v1/products/{product_id}/stock": Call("/v1/products/thing/stock", {"delta": 1}),
        "POST /internal/v1/commands": commands("restore_stock"),
        **PARTICIPANT,
    },
    "coupon": {
        "POST /v1/coupons": Call("/v1/coupons", {"user_id": "ann", "kind": "fixed", "value": 1}),
        "GET /v1/coupons": Call("/v1/coupons?user_id=ann"),
        "GET /v1/coupons/{coupon_id}": Call("/v1/coupons/one"),
        "POST /internal/v1/commands": commands("release_coupon"),
        **PARTICIPANT,
    },
    "balance": {
        "POST /v1/accounts/{user_id}/charges": Call("/v1/accounts/ann/charges", {"amount": 1}),
        "GET /v1/accounts/{user_id}": Call("/v1/accounts/ann"),
        "GET /v1/accounts/{user_id}/entries": Call("/v1/accounts/ann/entries"),
        "POST /internal/v1/commands": commands("refund"),
        **PARTICIPANT,
    },
    "relay": {
        "GET /v1/digests": Call("/v1/digests?from=2026-01-01T00:00:00Z"),
        "GET /v1/events": Call(f"/v1/events?order_id={ORDER}"),
    },
    "consumer": {
        "GET /v1/completeness": Call("/v1/completeness"),
        "GET /v1/dead-letters": Call("/v1/dead-letters"),
    },
}
# These ask nobody, or have a deadline of their own.
OTHERS = {"GET /asyncapi.json", "GET /schemas", "GET /schemas/{type}.json", "GET /internal/v1/books"}


@pytest.fixture(scope="module")
def own_database(reaper: Reaper) -> Any:
    """A database of a server of its own, for it is paused."""
    with fresh_database(start_binaries(packaged_binaries(), reaper)) as database:
        yield database


def test_all_calls_are_answered_in_time_and_again_as_before_when_it_goes_on(
    own_database: Database, kafka_bootstrap: str
) -> None:
    # On the event loop that services run on: how it connects and cancels is its own.
    uvloop.run(pause_and_go_on(own_database, kafka_bootstrap))


async def pause_and_go_on(database: Database, kafka: str) -> None:
    async with everything(database, kafka) as clients:
        for name, client in clients.items():
            document = await client.get("/openapi.json")
            told = {f"{method.upper()} {path}" for path, calls in document["paths"].items() for method in calls}
            assert told - OTHERS == set(CALLS[name])
            await eventually(partial(ready, client), HEAL_SECONDS, f"a ready {name}")
        before = await answers(clients)
        assert {status for status in before.values() if status >= 500} == set(), before
        with paused(database.url):
            # Twice: connections that were there, and those that are opened now.
            for _ in range(2):
                probes = [asyncio.create_task(unready(client)) for client in clients.values()]
                assert set((await answers(clients)).values()) == {503}
                await asyncio.gather(*probes)
        for name, client in clients.items():
            await eventually(partial(ready, client), HEAL_SECONDS, f"a ready {name}")

        async def as_before() -> bool:
            return {status for status in (await answers(clients)).values() if status >= 500} == set()

        await eventually(as_before, HEAL_SECONDS, "answers as before")


@asynccontextmanager
async def everything(database: Database, kafka: str) -> AsyncIterator[dict[str, Client]]:
    """Every service and a consumer, in this event loop."""
    settings: dict[str, Any] = {"request_deadline_seconds": DEADLINE_SECONDS}
    broker: dict[str, Any] = {"kafka_bootstrap_servers": kafka, "topic": f"orders.test-{uuid4().hex}"}
    urls = {name: await asyncio.to_thread(migrate_service, name, database) for name in list(CALLS)[:5]}
    platform = database.as_role("platform_consumer")
    await asyncio.to_thread(migrate, platform, "platform", CONSUMER_MIGRATIONS)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = {name: await enter(serving(name, urls[name], **settings)) for name in list(CALLS)[1:4]}
        others = {f"{name}_url": client.url for name, client in clients.items()}
        clients["order"] = await enter(serving("order", urls["order"], **settings, **others))
        relay_settings = RelaySettings(port=free_port(), database_url=urls["relay"], **settings, **broker)
        clients["relay"] = await enter(running(relay.serve, relay_settings))
        chosen = ConsumerSettings(
            port=free_port(), database_url=platform, relay_url=clients["relay"].url, **settings, **broker
        )
        clients["consumer"] = await enter(running(consumer.serve, chosen))
        yield clients


async def answers(clients: Mapping[str, Client]) -> dict[str, int]:
    """The status that each call is answered with, all of a service at once; none is late, and 503 says when to retry.

    One service after the other: all of them, and their clients, share this event loop, which is no part of the promise.
    """

    async def ask(client: Client, name: str, call: Call) -> int:
        method = name.partition(" ")[0]
        answer = await timed(
            DEADLINE_SECONDS + LATE_SECONDS, client.call, method, call.path, call.body, headers=call.headers
        )
        if answer.status == 503:
            assert (answer.problem, answer.headers["Retry-After"]) == ("unavailable", "1")
        return answer.status

    found: dict[str, int] = {}
    for service, client in clients.items():
        calls = CALLS[service]
        statuses = await asyncio.gather(*(ask(client, name, call) for name, call in calls.items()))
        found |= {f"{service}: {name}": status for name, status in zip(calls, statuses, strict=True)}
    return found


async def ready(client: Client) -> bool:
    answer = await timed(READY_SECONDS, client.call, "GET", "/readyz")
    assert {"database", "clock"} <= set(answer.body["checks"])
    return answer.status == 200


async def unready(client: Client) -> None:
    """Probe it several times at once: each is told in time that the database is what hangs."""
    probes = [timed(READY_SECONDS, client.call, "GET", "/readyz") for _ in range(5)]
    for answer in await asyncio.gather(*probes):
        assert answer.status == 503
        assert answer.body["checks"]["database"] != "ok"


async def timed(seconds: float, call: Callable[..., Any], *arguments: Any, **options: Any) -> Answer:
    """The answer; fails unless it comes within `seconds`."""
    began = asyncio.get_running_loop().time()
    answer: Answer = await call(*arguments, **options)
    took = asyncio.get_running_loop().time() - began
    assert took <= seconds, f"{arguments}: answered {answer.status} after {took:.2f} s"
    return answer
