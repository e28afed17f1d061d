"""A hanging database: every call of every service is answered by its deadline, and readiness within a second. When the
database resumes, everything works as before."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvloop

from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.everything import everything
from tests.infrastructure.postgres import packaged_binaries, paused, start_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Answer, Client
from tests.infrastructure.waiting import eventually

DEADLINE_SECONDS = 1.0
READY_SECONDS = 1.0
LATE_SECONDS = 1.0  # an answer may come so long after its deadline
HEAL_SECONDS = 10
CONSUMERS_README = Path(__file__).parents[2] / "deploy" / "consumer" / "README.md"
NEW_ORDER = {"user_id": "ann", "lines": [{"product_id": "thing", "quantity": 1}]}
ORDER = str(uuid4())


@dataclass(frozen=True, slots=True)
class Call:
    """A call that passes the checks of its input."""

    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def commands(type_: str) -> Call:
    """Return a batch with an undo, which every order accepts."""
    return Call("/internal/v1/commands", {"commands": [{"type": type_, "order_id": ORDER}]})


PARTICIPANT = {
    "GET /internal/v1/outcomes/{order_id}": Call(f"/internal/v1/outcomes/{ORDER}"),
    "GET /internal/v1/holds": Call("/internal/v1/holds"),
}
# Every call that uses the database, by service and by its name in the OpenAPI document.
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
# These don't use the database, or have their own deadline.
OTHERS = {
    "GET /asyncapi.json",
    "GET /schemas",
    "GET /schemas/{type}.json",
    "GET /internal/v1/books",
    "GET /internal/v1/settings",
}


@pytest.fixture(scope="module")
def own_database(reaper: Reaper) -> Any:
    """Return a database on a separate server, because the test pauses it."""
    with fresh_database(start_binaries(packaged_binaries(), reaper)) as database:
        yield database


def test_calls_are_answered_in_time_while_the_database_hangs_and_after_it(
    own_database: Database, kafka_bootstrap: str
) -> None:
    # On uvloop, as in production: it connects and cancels differently from asyncio.
    uvloop.run(pause_and_go_on(own_database, kafka_bootstrap))


async def pause_and_go_on(database: Database, kafka: str) -> None:
    async with everything(database, kafka, request_deadline_seconds=DEADLINE_SECONDS) as clients:
        for name, client in clients.items():
            assert await calls_of(name, client) - OTHERS == set(CALLS[name])
            await eventually(partial(ready, client), HEAL_SECONDS, f"a ready {name}")
        before = await answers(clients)
        assert {status for status in before.values() if status >= 500} == set(), before
        with paused(database.url):
            # Twice: with existing connections, and with new ones.
            for _ in range(2):
                for name, client in clients.items():
                    _, found = await asyncio.gather(unready(client), answers({name: client}))
                    assert set(found.values()) == {503}
        for name, client in clients.items():
            await eventually(partial(ready, client), HEAL_SECONDS, f"a ready {name}")

        async def as_before() -> bool:
            return {status for status in (await answers(clients)).values() if status >= 500} == set()

        await eventually(as_before, HEAL_SECONDS, "answers as before")


async def calls_of(name: str, client: Client) -> set[str]:
    """Every call of a service, by its OpenAPI document. The consumer has none, and names its calls in its README."""
    if name == "consumer":
        return set(re.findall(r"`(GET /v1/[a-z-]+)`", CONSUMERS_README.read_text()))
    document = await client.get("/openapi.json")
    return {f"{method.upper()} {path}" for path, calls in document["paths"].items() for method in calls}


async def answers(clients: Mapping[str, Client]) -> dict[str, int]:
    """Return each call's status. All calls of a service run concurrently; none is late, and 503 has Retry-After.

    Services are called one after the other, because all services and clients share this test's event loop.
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
    """Probe it several times concurrently: each probe reports in time that the database hangs."""
    probes = [timed(READY_SECONDS, client.call, "GET", "/readyz") for _ in range(5)]
    for answer in await asyncio.gather(*probes):
        assert answer.status == 503
        assert answer.body["checks"]["database"] != "ok"


async def timed(seconds: float, call: Callable[..., Any], *arguments: Any, **options: Any) -> Answer:
    """Return the answer; fail unless it comes within `seconds`."""
    began = asyncio.get_running_loop().time()
    answer: Answer = await call(*arguments, **options)
    took = asyncio.get_running_loop().time() - began
    assert took <= seconds, f"{arguments}: answered {answer.status} after {took:.2f} s"
    return answer
