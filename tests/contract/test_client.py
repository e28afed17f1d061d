"""The client for Python callers agrees with the services' OpenAPI documents, and buys from the running services."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.client import Client, OrderStatus, Service, accounts, coupons, new_key, orders, products
from deploy.client.problems import (
    CouponExists,
    IdempotencyKeyReused,
    InsufficientBalance,
    InvalidCoupon,
    OrderNotCancellable,
    OrderNotFound,
    OutOfStock,
    ProductNotFound,
    ValidationFailed,
)
from deploy.client.transport import Call
from tests.contract.agreement import disagreements, resolved
from tests.contract.checking import Document
from tests.infrastructure.shopping import new_id
from tests.infrastructure.stack import Stack

FOLDER = Path(__file__).parents[2] / "deploy" / "client"
CALLS = (*orders.CALLS, *products.CALLS, *coupons.CALLS, *accounts.CALLS)
BODIES = [call for call in CALLS if call.body is not None]
JSON = "application/json"


def named(call: Call) -> str:
    return f"{call.method} {call.path}"


def operation(call: Call, documents: Mapping[str, Document]) -> Document:
    """Return what the document says about a call."""
    found: Document = documents[call.service]["paths"][call.path][call.method.lower()]
    return found


def schema_in(document: Document, content: Document) -> Any:
    """Return the schema of a body or an answer of a document."""
    return resolved(content["content"][JSON]["schema"], document["components"]["schemas"])


def schema_of(model: Any) -> Any:
    """Return the schema of a model of the client."""
    schema = model.model_json_schema()
    return resolved(schema, schema.get("$defs", {}))


def test_client_has_every_call_of_the_documents_and_no_other(documents: Mapping[str, Document]) -> None:
    described = {
        (service, method.upper(), path)
        for service in Service
        for path, operations in documents[service]["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    }
    assert {(call.service, call.method, call.path) for call in CALLS} == described


@pytest.mark.parametrize("call", CALLS, ids=named)
def test_query_key_and_statuses_of_a_call_are_the_documents(call: Call, documents: Mapping[str, Document]) -> None:
    described = operation(call, documents)
    names: dict[str, set[str]] = {"query": set(), "header": set(), "path": set()}
    for parameter in described["parameters"]:
        names[parameter["in"]].add(parameter["name"])
    assert names["query"] == call.query
    assert ("Idempotency-Key" in names["header"]) is call.keyed
    assert {int(status) for status in described["responses"] if status < "400"} == set(call.replies)
    required = described.get("requestBody", {"required": False})["required"]
    assert required is (call.body is not None)


@pytest.mark.parametrize("call", CALLS, ids=named)
def test_client_reads_every_answer_that_a_document_describes(call: Call, documents: Mapping[str, Document]) -> None:
    for status, model in call.replies.items():
        described = schema_in(documents[call.service], operation(call, documents)["responses"][str(status)])
        assert list(disagreements(described, schema_of(model))) == []
        unknown = schema_of(model)["properties"].keys() - described["properties"].keys()
        assert not unknown, f"no answer has {unknown}"


@pytest.mark.parametrize("call", BODIES, ids=named)
def test_documents_allow_every_body_that_the_client_sends(call: Call, documents: Mapping[str, Document]) -> None:
    described = schema_in(documents[call.service], operation(call, documents)["requestBody"])
    assert list(disagreements(schema_of(call.body), described)) == []
    missing = described["properties"].keys() - schema_of(call.body)["properties"].keys()
    assert not missing, f"the client can't send {missing}"


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """Return a client of the stack's services."""
    async with Client({service: stack.url(service) for service in Service}) as client:
        yield client


async def a_keyboard(client: Client, stock: int = 10) -> str:
    """Create a product of 100; return its id."""
    made = await client.products.create(product_id=new_id("keyboard"), name="Keyboard", price=100, stock=stock)
    return made.product_id


async def a_buyer(client: Client, amount: int = 1000) -> str:
    """Create a user with money; return the id."""
    return (await client.accounts.charge(new_id("buyer"), amount)).user_id


async def test_order_is_bought_listed_and_refunded(client: Client) -> None:
    user, product = await a_buyer(client), await a_keyboard(client)
    coupon = await client.coupons.create(user_id=user, kind="percent", value=10)
    order = await client.orders.place({product: 2}, coupon_id=coupon.coupon_id, user_id=user)
    assert (order.status, order.total_amount, order.lines[0].line_amount) == ("PAID", 180, 200)
    assert await client.orders.get(order.order_id) == order
    assert [found async for found in client.orders.list(user_id=user)] == [order]
    assert (await client.coupons.get(coupon.coupon_id)).order_id == order.order_id
    assert (await client.accounts.get(user)).balance == 820
    assert {item.outcome for item in await client.orders.timeline(order.order_id)} >= {"applied"}
    assert (await client.orders.cancel(order.order_id)).status is OrderStatus.REFUNDED
    assert [entry.kind async for entry in client.accounts.entries(user, page_size=1)] == ["refund", "debit", "charge"]
    assert (await client.products.get(product)).stock == 10


async def test_order_that_is_paid_later_waits_and_is_paid_once(client: Client) -> None:
    user, product = await a_buyer(client, 100), await a_keyboard(client)
    order = await client.orders.place({product: 1}, payment="later", user_id=user)
    assert (order.status, order.expires_at is None) == ("PENDING_PAYMENT", False)
    key = new_key()
    paid = await client.orders.pay(order.order_id, key=key)
    assert paid.status is OrderStatus.PAID
    assert await client.orders.pay(order.order_id, key=key) == paid
    assert (await client.accounts.get(user)).balance == 0


async def test_repetition_with_a_key_has_one_effect(client: Client) -> None:
    user, product, key = await a_buyer(client), await a_keyboard(client), new_key()
    first = await client.orders.place({product: 1}, user_id=user, key=key)
    assert await client.orders.place({product: 1}, user_id=user, key=key) == first
    with pytest.raises(IdempotencyKeyReused):
        await client.orders.place({product: 2}, user_id=user, key=key)
    charged = await client.accounts.charge(user, 5, key=key)
    assert await client.accounts.charge(user, 5, key=key) == charged


async def test_refusals_are_exceptions_with_their_members(client: Client) -> None:
    user, product = await a_buyer(client, 99), await a_keyboard(client, stock=1)
    with pytest.raises(ProductNotFound) as unknown:
        await client.orders.place({"nothing-like-it": 1}, user_id=user)
    assert unknown.value.product_ids == ["nothing-like-it"]
    with pytest.raises(OutOfStock) as sold:
        await client.orders.place({product: 2}, user_id=user)
    assert sold.value.product_ids == [product]
    assert sold.value.order_id is not None
    assert (await client.orders.get(sold.value.order_id)).reason == "out-of-stock"
    with pytest.raises(InsufficientBalance) as poor:
        await client.orders.place({product: 1}, user_id=user)
    assert (poor.value.required, poor.value.available) == (100, 99)
    with pytest.raises(InvalidCoupon) as coupon:
        await client.orders.place({product: 1}, coupon_id=new_id("coupon"), user_id=user)
    assert coupon.value.reason == "not-found"
    with pytest.raises(OrderNotCancellable):
        await client.orders.cancel(sold.value.order_id)
    with pytest.raises(OrderNotFound):
        await client.orders.get("no-uuid")
    with pytest.raises(ValidationFailed) as invalid:
        await client.orders.place({product: 0}, user_id=user)
    assert invalid.value.errors[0]["pointer"] == "/lines/0/quantity"


async def test_catalogue_is_changed_and_listed(client: Client) -> None:
    product = await a_keyboard(client)
    assert (await client.products.change(product, price=7)).price == 7
    assert (await client.products.change(product, name="Piano")).name == "Piano"
    assert (await client.products.move_stock(product, -4)).stock == 6
    assert product in [found.product_id async for found in client.products.list()]
    user = new_id("buyer")
    given = [await client.coupons.create(user_id=user, kind="fixed", value=5, max_discount=4) for _ in range(3)]
    found = [one async for one in client.coupons.list(user_id=user, status="AVAILABLE", page_size=2)]
    assert {one.coupon_id for one in found} == {one.coupon_id for one in given}
    with pytest.raises(CouponExists):
        await client.coupons.create(coupon_id=given[0].coupon_id, user_id=user, kind="fixed", value=5)


async def test_client_buys_through_the_gateway(gateway_url: str) -> None:
    async with Client(gateway_url + "/") as client:
        user, product = await a_buyer(client), await a_keyboard(client)
        assert (await client.orders.place({product: 1}, user_id=user)).status is OrderStatus.PAID


async def test_copied_folder_runs_the_example_of_its_page(client: Client, stack: Stack, tmp_path: Path) -> None:
    await client.products.create(product_id=(keyboard := new_id("keyboard")), name="Keyboard", price=45000, stock=5)
    alice = await a_buyer(client, 1_000_000)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.M | re.S)
    for service, url in re.findall(r"Service\.(\w+): \"(.+?)\"", code):
        code = code.replace(url, stack.url(service.lower()))
    code = code.replace('"keyboard"', f'"{keyboard}"').replace('"alice"', f'"{alice}"')
    shutil.copytree(FOLDER, tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await program.communicate()
    assert (program.returncode, output.decode()) == (0, "PAID: 45000 KRW\nREFUNDED\n")
