"""One checkout is one trace, from the gateway's caller to the consumer, as a receiver of OTLP over HTTP reads it."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.infrastructure.databases import Database
from tests.infrastructure.gateway import gateway
from tests.infrastructure.otlp import ExportedSpan, Receiver, receiving
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import Client
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order
from tests.infrastructure.stack import RunStack, Stack, shopping
from tests.infrastructure.waiting import DeadlineError, eventually
from tests.integration.consumer.platform import platform

PATIENCE_SECONDS = 60
ORDERS = 12


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield receiver


@pytest.fixture(scope="module")
def traced_stack(receiver: Receiver, run_stack: RunStack) -> Iterator[Stack]:
    assert receiver.spans == []
    with run_stack() as stack:
        yield stack


@pytest.fixture
async def consumed(
    traced_stack: Stack, create_database: Callable[..., Database], tmp_path: Path, reaper: Reaper
) -> AsyncIterator[None]:
    """Run a consumer beside the stack."""
    database = traced_stack.database
    connection = await asyncpg.connect(database.url)
    pipeline = Pipeline(database.url, traced_stack.kafka, traced_stack.topic, connection, real_broker=False)
    async with platform(create_database(), pipeline, traced_stack.url("relay"), tmp_path, reaper) as there:
        there.start(CONSUMER_GROUP=f"traced-{secrets.token_hex(4)}")
        yield
    await connection.close()


def below(topic: str) -> set[tuple[str, str]]:
    """Return the spans of every order, each with one that is below it or linked to it, by name."""
    return {
        ("POST /v1/orders", "batch starts"),
        ("POST /v1/orders", "saga place_now"),
        ("POST /v1/orders", f"publish {topic}"),
        ("saga place_now", "hold_stock"),
        ("saga place_now", "debit"),
        ("saga place_now", "batch transitions"),
        ("hold_stock", "batch product"),
        ("debit", "batch balance"),
        (f"publish {topic}", f"send {topic}"),
        (f"publish {topic}", f"process {topic}"),
        (f"process {topic}", "process batch"),
    }


def a_trace() -> tuple[str, str]:
    """Return ids of a caller's trace and span."""
    return secrets.token_hex(16), secrets.token_hex(8)


async def until_exported(receiver: Receiver, trace_id: str, names: set[tuple[str, str]]) -> list[ExportedSpan]:
    """Wait until these spans of a trace are there, by service and name; return the trace."""

    async def found() -> list[ExportedSpan] | None:
        spans = [span for span in receiver.spans if span.trace_id == trace_id]
        return spans if {(span.service, span.name) for span in spans} >= names else None

    spans = await eventually(found, PATIENCE_SECONDS, f"the trace {trace_id}")
    assert spans is not None
    return spans


@pytest.mark.timeout(240)  # it starts a stack of its own
@pytest.mark.usefixtures("consumed")
async def test_one_checkout_is_one_trace_from_the_gateway_to_the_consumer(
    receiver: Receiver, traced_stack: Stack, reaper: Reaper
) -> None:
    services = {name: traced_stack.url(name) for name in ("order", "product", "coupon", "balance")}
    trace_id, caller = a_trace()
    async with shopping(traced_stack) as shop:
        user, product = await a_user(shop), await a_product(shop)
        order = an_order(user, product, coupon_id=await a_coupon(shop, user))
        with gateway(services, reaper) as entry:
            async with aiohttp.ClientSession(entry.url) as session:
                headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
                answer = await Client(session, entry.url).call("POST", "/v1/orders", order, headers=headers)
            await eventually(lambda: asyncio.sleep(0, f'"trace_id":"{trace_id}"' in entry.log), 5, "the gateway's line")
    assert (answer.status, answer.headers["traceparent"]) == (201, headers["traceparent"])
    topic = traced_stack.topic
    steps = {"hold_stock": "product", "redeem_coupon": "coupon", "debit": "balance"}
    expected = {
        ("order", "batch starts", "POST /v1/orders"),
        ("order", "saga place_now", "POST /v1/orders"),
        *(("order", step, "saga place_now") for step in steps),
        *(("order", f"batch {service}", step) for step, service in steps.items()),
        *((service, "POST /internal/v1/commands", f"batch {service}") for service in steps.values()),
        *((service, "batch commands", "POST /internal/v1/commands") for service in steps.values()),
        ("order", "batch transitions", "saga place_now"),
        ("relay", f"publish {topic}", "POST /v1/orders"),
        ("relay", f"send {topic}", f"publish {topic}"),
        ("consumer", f"process {topic}", f"publish {topic}"),
        ("consumer", "process batch", f"process {topic}"),
    }
    names = {("order", "POST /v1/orders"), *((service, name) for service, name, _ in expected)}
    spans = await until_exported(receiver, trace_id, names)
    by_id = {span.span_id: span for span in spans}
    assert {span.parent_id for span in spans} - by_id.keys() == {caller}, "a span has no parent"
    tree = {(span.service, span.name, by_id[span.parent_id].name) for span in spans if span.parent_id in by_id}
    assert tree == expected
    assert not [span for span in spans if span.failed]
    order_ids = {span.attributes["order.id"] for span in spans if "order.id" in span.attributes}
    assert order_ids == {answer.body["order_id"]}


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("consumed")
async def test_every_batch_is_below_or_linked_to_each_order_in_it(receiver: Receiver, traced_stack: Stack) -> None:
    traces = dict(a_trace() for _ in range(ORDERS))
    async with shopping(traced_stack) as shop:
        user, product = await a_user(shop), await a_product(shop)
        calls = (
            shop.order.call(
                "POST", "/v1/orders", an_order(user, product), headers={"traceparent": f"00-{trace}-{span}-01"}
            )
            for trace, span in traces.items()
        )
        answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers} == {201}
    expected = {(trace_id, upper, lower) for trace_id in traces for upper, lower in below(traced_stack.topic)}

    async def missing() -> set[tuple[str, str, str]]:
        """Return what is neither below the span of an order nor linked to it."""
        by_id = {span.span_id: span for span in receiver.spans}
        places = [
            (by_id.get(one), span)
            for span in by_id.values()
            for one in (span.parent_id, *(linked for _, linked in span.links))
        ]
        return expected - {(upper.trace_id, upper.name, lower.name) for upper, lower in places if upper}

    async def complete() -> bool:
        return not await missing()

    try:
        await eventually(complete, PATIENCE_SECONDS, "the spans of all orders")
    except DeadlineError:
        assert await missing() == set()
    text = json.dumps([(span.name, span.attributes, list(span.events)) for span in receiver.spans])
    assert user not in text
    assert product not in text
