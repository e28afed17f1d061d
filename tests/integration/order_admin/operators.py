"""Sagas that are held up somewhere, and the operators' command line as a call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from services.order.admin import __main__ as command_line
from tests.infrastructure.checkout import World
from tests.infrastructure.command_line import Said, said
from tests.infrastructure.proxy import Mode
from tests.infrastructure.services import Client
from tests.infrastructure.waiting import eventually
from tests.system.shopping import a_coupon, a_product, a_user, an_order, new_id

MONEY, STOCK, PRICE = 10_000, 10, 1000


async def command(world: World, *arguments: str) -> Said:
    """Run the command line beside the services."""
    environment = {"ORDER_DATABASE_URL": world.database.as_role("order_service"), "ORDER_AUDIT_GRACE_SECONDS": "0.2"}
    environment |= {f"ORDER_{name.upper()}": url for name, url in world.urls.items()}
    return await said(command_line, environment, *arguments)


async def act(world: World, path: str, **fields: Any) -> Any:
    """An act over the operators' API, which must succeed."""
    return await world.admin.post(f"/admin/v1/{path}", {"actor": "sue", "reason": "a test", **fields})


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


async def a_case(world: World) -> Case:
    """Everything that an order needs."""
    product, user = await a_product(world.shop, price=PRICE, stock=STOCK), await a_user(world.shop, MONEY)
    return Case(user, product, await a_coupon(world.shop, user))


async def place(world: World, case: Case, payment: str) -> Case:
    """Place the order; if its way is blocked, the client hears 202 and the saga is held up."""
    body = an_order(case.user, case.product, coupon_id=case.coupon, payment=payment)
    return await _operate(world, replace(case, path="/v1/orders", body=body))


async def placed(world: World, payment: str) -> Case:
    """An order that was placed undisturbed."""
    return await place(world, await a_case(world), payment)


async def go_on(world: World, case: Case, operation: str) -> Case:
    """Begin to pay or cancel the order."""
    return await _operate(world, replace(case, path=f"/v1/orders/{case.order_id}/{operation}", body=None))


async def _operate(world: World, case: Case) -> Case:
    case = replace(case, key=new_id("key"))
    answer = await repeat(world, case)
    assert answer.status in (200, 201, 202), answer
    return replace(case, order_id=answer.body["order_id"])


async def repeat(world: World, case: Case) -> Any:
    """Send the last operation once more, with its key."""
    return await world.shop.order.call("POST", case.path, case.body, headers={"Idempotency-Key": case.key})


@asynccontextmanager
async def blocked(world: World, participant: str, mode: Mode = Mode.CLOSED) -> AsyncIterator[None]:
    """Take the way to a participant away while the body runs."""
    way = world.ways[participant]
    way.set(mode)
    try:
        yield
    finally:
        way.set(Mode.OPEN)


async def saga_of(world: World, case: Case) -> Any:
    """The order's newest saga, as operators see it."""
    return await world.admin.get(f"/admin/v1/sagas/{case.order_id}")


def client_of(world: World, participant: str) -> Client:
    """A client that goes round the proxy."""
    return {"product": world.shop.product, "coupon": world.shop.coupon, "balance": world.shop.balance}[participant]


async def holds_of(world: World, case: Case) -> dict[str, Any]:
    """What the participants hold for the order."""
    found = {name: await client_of(world, name).holds(case.order_id) for name in world.ways}
    return {name: holds[case.order_id] for name, holds in found.items() if holds}


async def applied(world: World, case: Case, participant: str, type_: str) -> None:
    """Wait until a participant has applied a command for the order."""

    async def is_applied() -> bool:
        known = await client_of(world, participant).get(f"/internal/v1/outcomes/{case.order_id}")
        return any(one["type"] == type_ and one["outcome"] == "applied" for one in known["outcomes"])

    await eventually(is_applied, 10, f"{type_} applied")


async def untouched(world: World, case: Case) -> bool:
    """Whether stock, coupon and money are as if the order had never been."""
    shop = world.shop
    product = await shop.product.get(f"/v1/products/{case.product}")
    coupon = await shop.coupon.get(f"/v1/coupons/{case.coupon}")
    account = await shop.balance.get(f"/v1/accounts/{case.user}")
    return bool((product["stock"], coupon["status"], account["balance"]) == (STOCK, "AVAILABLE", MONEY))
