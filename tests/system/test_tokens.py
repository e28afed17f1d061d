"""The product in jwt mode, as `make run AUTH=jwt` starts it, and its console."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from deploy.client import Client, Service
from deploy.client.problems import Forbidden, Unauthenticated
from deploy.console.__main__ import PAGES
from deploy.local.folder import Folder
from deploy.local.token import issuer_of
from tests.infrastructure.orderctl import orderctl
from tests.infrastructure.shopping import new_id
from tests.infrastructure.stack import REPOSITORY, RunStack, Stack
from tests.infrastructure.waiting import eventually
from tests.integration.console.serving import Visitor, visiting

COMMAND_SECONDS = 60
SECONDS = 30
OPERATOR = "ops orders:read events:read"
BUYER = "alice"


@pytest.fixture(scope="module")
def stack(run_stack: RunStack) -> Iterator[Stack]:
    with run_stack(auth="jwt") as stack:
        yield stack


@pytest_asyncio.fixture
async def visitor(stack: Stack) -> AsyncIterator[Visitor]:
    async with visiting(stack.run()["console"]["url"]) as visitor:
        yield visitor


def run(stack: Stack, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the commands behind `make` beside the stack."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"LOCAL_DIR": str(stack.folder)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


async def call(
    stack: Stack, method: str, service: str, path: str, token: str | None, body: Any = None
) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = stack.url(service) + path
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, json=body) as response,
    ):
        return response.status, await response.json()


def token(stack: Stack, subject: str, scopes: str = "") -> str:
    return run(stack, "deploy.local.token", subject, scopes).stdout.strip()


async def test_order_belongs_to_the_tokens_subject_and_the_books_balance(stack: Stack) -> None:
    shopkeeper, buyer = token(stack, "shop", "catalog:write accounts:charge"), token(stack, BUYER)
    product = {"product_id": "lamp", "name": "Lamp", "price": 100, "stock": 5}
    assert (await call(stack, "POST", "product", "/v1/products", shopkeeper, product))[0] == 201
    charge = {"amount": 1000}
    assert (await call(stack, "POST", "balance", f"/v1/accounts/{BUYER}/charges", shopkeeper, charge))[0] == 201
    wanted = {"lines": [{"product_id": "lamp", "quantity": 1}]}
    assert (await call(stack, "POST", "order", "/v1/orders", None, wanted))[0] == 401
    status, order = await call(stack, "POST", "order", "/v1/orders", buyer, wanted)
    assert (status, order["status"], order["user_id"]) == (201, "PAID", BUYER)
    path = f"/v1/orders/{order['order_id']}"
    assert (await call(stack, "GET", "order", path, buyer))[0] == 200
    for stranger in (token(stack, "bob"), shopkeeper):
        assert (await call(stack, "GET", "order", path, stranger))[0] == 404
        assert (await call(stack, "POST", "order", f"{path}/cancel", stranger))[0] == 404
    audited = run(stack, "deploy.local.audit")
    assert audited.returncode == 0, audited.stdout + audited.stderr


async def test_client_for_python_sends_the_token_of_its_caller(stack: Stack) -> None:
    shopkeeper, buyer = token(stack, "shop", "catalog:write accounts:charge"), token(stack, "bea")
    urls = {service: stack.url(service) for service in Service}
    async with Client(urls, token=lambda: shopkeeper) as shop:
        product = await shop.products.create(name="Lamp", price=100, stock=5)
        await shop.accounts.charge("bea", 1000)
    async with Client(urls, token=lambda: buyer) as own:
        order = await own.orders.place({product.product_id: 1})
        assert (order.user_id, order.status) == ("bea", "PAID")
        assert (await own.accounts.get("me")).balance == 900
        with pytest.raises(Forbidden) as refused:
            await own.accounts.charge("bea", 1)
        assert refused.value.required_scope == "accounts:charge"
    async with Client(urls) as nobody:
        with pytest.raises(Unauthenticated):
            await nobody.orders.get(order.order_id)


async def test_customers_of_make_load_have_tokens_of_their_own(stack: Stack) -> None:
    loaded = run(stack, "deploy.local.load", "--seconds", "0.3", "--customers", "1")
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr
    reader = token(stack, "load-1")
    status, found = await call(stack, "GET", "order", "/v1/orders", reader)
    assert (status, {one["user_id"] for one in found["items"]}) == (200, {"load-1"})


async def test_token_of_orderctl_decides_what_it_may_and_who_acts(stack: Stack) -> None:
    def settings(subject: str, scopes: str) -> dict[str, str]:
        return {"LOCAL_DIR": str(stack.folder), "ORDERCTL_TOKEN": token(stack, subject, scopes)}

    act = ("sagas", "retry", "--all", "--reason", "a test", "--json")
    reader, operator = settings("rita", "ops:read"), settings("olga", "ops")
    assert (await orderctl(reader, "sagas", "list")).status == 0
    refused = await orderctl(reader, *act)
    assert (refused.status, refused.err.startswith("403 forbidden: ")) == (1, True)
    assert (await orderctl(operator, *act)).status == 0
    assert (await orderctl(settings("bea", ""), "audit")).status == 1
    nobody = await orderctl({"LOCAL_DIR": str(stack.folder)}, "outbox", "list")
    assert (nobody.status, nobody.err.startswith("401 unauthenticated: ")) == (1, True)


async def test_commands_are_not_on_the_public_listener(stack: Stack) -> None:
    operator = token(stack, "operator", "ops orders:write accounts:charge")
    for service in ("product", "coupon", "balance"):
        status, _ = await call(stack, "POST", service, "/internal/v1/commands", operator, {"commands": []})
        assert status == 404
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {operator}"}) as session,
            session.get(stack.run()["services"][service]["internal_url"] + "/internal/v1/books") as response,
        ):
            assert response.status == 401


def signed(stack: Stack, subject: str, scopes: str) -> str:
    """Return a token as the command prints it, a second sooner."""
    return issuer_of(Folder(stack.folder), stack.run()["issuer"]).token(subject, scopes)


async def sign_in(stack: Stack, visitor: Visitor, subject: str, scopes: str) -> None:
    answer = await visitor.submit("/sign-in", "/sign-in", access_token=signed(stack, subject, scopes))
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def ask(stack: Stack, subject: str, scopes: str, *arguments: str) -> Any:
    """Run a command of orderctl with a token, and return the JSON that it printed."""
    settings = {"LOCAL_DIR": str(stack.folder), "ORDERCTL_TOKEN": signed(stack, subject, scopes)}
    ended = await orderctl(settings, *arguments, "--json")
    assert ended.status == 0, ended
    return json.loads(ended.out)


async def test_operator_sees_every_page(stack: Stack, visitor: Visitor) -> None:
    assert (await visitor.get("/")).headers["Location"] == "/sign-in?next=/"
    await sign_in(stack, visitor, "olga", OPERATOR)
    for page in PAGES:
        answer = await visitor.get(page.path)
        assert answer.status == 200, (page.name, answer.text)
        assert answer.has("Signed in as olga", f'href="{page.path}" aria-current="page"')


async def test_services_show_who_is_ready_and_who_holds_which_shard(stack: Stack, visitor: Visitor) -> None:
    await sign_in(stack, visitor, "rita", "ops:read")

    async def all_are_there() -> bool:
        shown = await visitor.get("/services")
        return shown.has("5 of 5 replicas are ready.", ">jwt<", "sagas_running_max", '<th scope="row">3</th>')

    await eventually(all_are_there, SECONDS, "all replicas and shards")


async def test_figures_of_all_services_arrive(stack: Stack, visitor: Visitor) -> None:
    await sign_in(stack, visitor, "rita", "ops:read")

    async def all_are_there() -> bool:
        async with visitor.session.get(f"{visitor.url}/live/stream") as response:
            text = (await response.content.readuntil(b"}\n\n")).decode()
        sent = json.loads(text.rpartition("data: ")[2])
        figures = sent["figures"]
        return bool(
            sent["at"] and not sent["away"] and figures["sagas.running"][-1] == 0 and figures["relay.oldest"][-1] == 0
        )

    await eventually(all_are_there, SECONDS, "the figures of the order service and of the relay")


async def test_reader_sees_sagas_and_may_not_act(stack: Stack, visitor: Visitor) -> None:
    await sign_in(stack, visitor, "rita", "ops:read")
    page = await visitor.get("/sagas")
    assert page.status == 200
    assert "/sagas/all/retry" not in page.text
    assert 'href="/orders"' not in page.text, "her token has no scope for orders"
    refused = await visitor.submit("/sagas", "/sagas/all/retry", reason="a test")
    assert (refused.status, refused.has("it needs the scope ops.")) == (403, True)


async def test_stuck_saga_is_found_and_undone_under_the_operators_name(stack: Stack, visitor: Visitor) -> None:
    shop, product, user = "catalog:write coupons:write accounts:charge", new_id("product"), new_id("user")
    await ask(stack, "shop", shop, "stock", "create", product, "--name", "Thing", "--price", "100", "--units", "10")
    await ask(stack, "shop", shop, "accounts", "charge", user, "1000")
    coupon = new_id("coupon")
    await ask(stack, "shop", shop, "coupons", "give", coupon, user, "--percent", "10")
    await sign_in(stack, visitor, "olga", OPERATOR)
    stack.signal("coupon", signal.SIGSTOP)
    try:
        settings = {"LOCAL_DIR": str(stack.folder), "ORDERCTL_TOKEN": signed(stack, user, "")}
        place = ("orders", "place", f"{product}=1", "--coupon", coupon)
        await orderctl({**settings, "ORDERCTL_DEADLINE_SECONDS": "1"}, *place)
        (saga,) = await ask(stack, "olga", "ops", "sagas", "list")
        assert (await visitor.get("/sagas")).has(saga["saga_id"], saga["order_id"])
        path = f"/sagas/{saga['saga_id']}/force"
        tried = await visitor.submit(path, path, reason="the coupon service hangs")
        assert tried.has("<h1>Confirm</h1>", "olga")
        assert (await visitor.post(path, tried.hidden())).status == 303
    finally:
        stack.signal("coupon", signal.SIGCONT)

    async def is_rejected() -> bool:
        return (await visitor.get(f"/orders/{saga['order_id']}")).has("rejected")

    await eventually(is_rejected, SECONDS, "the end of the saga")
    acts = await ask(stack, "olga", "ops", "sagas", "acts")
    assert (acts[0]["actor"], acts[0]["act"], acts[0]["reason"]) == ("olga", "force", "the coupon service hangs")
    assert (await visitor.get("/sagas")).has("olga", "the coupon service hangs")


async def test_console_that_dies_is_started_again(stack: Stack) -> None:
    old = stack.run()["console"]["pid"]
    os.kill(old, signal.SIGKILL)

    async def answers() -> bool:
        console = stack.run()["console"]
        if console["pid"] in (None, old):
            return False
        async with visiting(console["url"]) as visitor:
            try:
                return (await visitor.get("/readyz")).status == 200
            except OSError:
                return False

    await eventually(answers, SECONDS, "the console")
