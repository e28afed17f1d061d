"""Blocked sagas, and calls of the operators' command line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from services.order.admin import __main__ as command_line
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.command_line import CommandResult, run_command
from tests.infrastructure.proxy import Mode
from tests.infrastructure.services import Client
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order, new_id
from tests.infrastructure.waiting import eventually

MONEY, STOCK, PRICE = 10_000, 10, 1000


async def command(checkout: Checkout, *arguments: str) -> CommandResult:
    """Run the command line while the services run."""
    environment = {"ORDER_DATABASE_URL": checkout.database.as_role("order_service"), "ORDER_AUDIT_GRACE_SECONDS": "0.2"}
    environment |= {f"ORDER_{name.upper()}": url for name, url in checkout.urls.items()}
    return await run_command(command_line, environment, *arguments)


async def act(checkout: Checkout, path: str, **fields: Any) -> Any:
    """Act over the operators' API; the act must succeed."""
    return await checkout.admin.post(f"/admin/v1/{path}", {"actor": "sue", "reason": "a test", **fields})


@dataclass(frozen=True, slots=True)
class Case:
    """An order of one unit with a coupon, by a user who had MONEY; `path`, `body` and `key` of its last operation."""

    user: str
    product: str
    coupon: str
    order_id: str = ""
    path: str = ""
    body: Any = None
    key: str = ""


async def a_case(checkout: Checkout) -> Case:
    """Create everything that an order needs."""
    product, user = await a_product(checkout.shop, price=PRICE, stock=STOCK), await a_user(checkout.shop, MONEY)
    return Case(user, product, await a_coupon(checkout.shop, user))


async def place(checkout: Checkout, case: Case, payment: str) -> Case:
    """Place the order; if a participant is blocked, the client gets 202 and the saga waits."""
    body = an_order(case.user, case.product, coupon_id=case.coupon, payment=payment)
    return await _operate(checkout, replace(case, path="/v1/orders", body=body))


async def placed(checkout: Checkout, payment: str) -> Case:
    """Place an order without a block."""
    return await place(checkout, await a_case(checkout), payment)


async def go_on(checkout: Checkout, case: Case, operation: str) -> Case:
    """Begin to pay or cancel the order."""
    return await _operate(checkout, replace(case, path=f"/v1/orders/{case.order_id}/{operation}", body=None))


async def _operate(checkout: Checkout, case: Case) -> Case:
    case = replace(case, key=new_id("key"))
    answer = await repeat(checkout, case)
    assert answer.status in (200, 201, 202), answer
    return replace(case, order_id=answer.body["order_id"])


async def repeat(checkout: Checkout, case: Case) -> Any:
    """Repeat the last operation with its key."""
    return await checkout.shop.order.call("POST", case.path, case.body, headers={"Idempotency-Key": case.key})


@asynccontextmanager
async def blocked(checkout: Checkout, participant: str, mode: Mode = Mode.CLOSED) -> AsyncIterator[None]:
    """Block the proxy of a participant while the body runs."""
    way = checkout.ways[participant]
    way.set(mode)
    try:
        yield
    finally:
        way.set(Mode.OPEN)


async def saga_of(checkout: Checkout, case: Case) -> Any:
    """Return the order's newest saga from the operators' API."""
    return await checkout.admin.get(f"/admin/v1/sagas/{case.order_id}")


def client_of(checkout: Checkout, participant: str) -> Client:
    """Return a client that bypasses the proxy."""
    return {"product": checkout.shop.product, "coupon": checkout.shop.coupon, "balance": checkout.shop.balance}[
        participant
    ]


async def holds_of(checkout: Checkout, case: Case) -> dict[str, Any]:
    """Return what the participants hold for the order."""
    found = {name: await client_of(checkout, name).holds(case.order_id) for name in checkout.ways}
    return {name: holds[case.order_id] for name, holds in found.items() if holds}


async def applied(checkout: Checkout, case: Case, participant: str, type_: str) -> None:
    """Wait until a participant has applied a command for the order."""

    async def is_applied() -> bool:
        known = await client_of(checkout, participant).get(f"/internal/v1/outcomes/{case.order_id}")
        return any(one["type"] == type_ and one["outcome"] == "applied" for one in known["outcomes"])

    await eventually(is_applied, 10, f"{type_} applied")


async def untouched(checkout: Checkout, case: Case) -> bool:
    """Return whether stock, coupon and money are as before the order."""
    shop = checkout.shop
    product = await shop.product.get(f"/v1/products/{case.product}")
    coupon = await shop.coupon.get(f"/v1/coupons/{case.coupon}")
    account = await shop.balance.get(f"/v1/accounts/{case.user}")
    return bool((product["stock"], coupon["status"], account["balance"]) == (STOCK, "AVAILABLE", MONEY))
