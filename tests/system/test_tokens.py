"""The product in jwt mode, as `make run AUTH=jwt` starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.infrastructure.stack import REPOSITORY, RunStack, Stack

COMMAND_SECONDS = 60
BUYER = "alice"


@pytest.fixture(scope="module")
def stack(run_stack: RunStack) -> Iterator[Stack]:
    with run_stack(auth="jwt") as stack:
        yield stack


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
