"""`orderctl orders`: find, show, place, pay and cancel orders."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import click

from deploy.client import Order, OrderStatus, Service
from deploy.orderctl.merging import Question, ask_owner, show_merged
from deploy.orderctl.options import as_json, cells, key, limit, yes
from deploy.orderctl.output import confirm, show_one, show_rows
from deploy.orderctl.places import Cells
from deploy.orderctl.platform import Platform, ask, has_token

COLUMNS = ("order_id", "user_id", "status", "total_amount", "currency", "created_at")
LINES = ("product_id", "quantity", "unit_price", "line_amount")
TIMELINE = ("at", "step", "outcome", "detail")
PAGE_MAX = 100


@click.group()
def orders() -> None:
    """Orders: list, show, place, pay, cancel."""


@orders.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--status", type=click.Choice([status.value for status in OrderStatus]))
@limit
@cells("order")
@as_json
def list_(user: str | None, status: str | None, limit: int, cells: Cells, as_json: bool) -> None:
    """List orders, newest first."""
    chosen = None if status is None else OrderStatus(status)

    async def found(platform: Platform) -> list[dict[str, Any]]:
        listed = platform.client(Service.ORDER).orders.list
        return await first(limit, listed, user_id=user, status=chosen)

    show_items(cells, found, COLUMNS, "order_id", user=user, newest_first=True, limit=limit, as_json=as_json)


@orders.command()
@click.argument("id_", metavar="ID")
@as_json
def show(id_: str, as_json: bool) -> None:
    """Show an order, its lines, and what was done for it."""

    async def found(platform: Platform) -> dict[str, Any]:
        calls = platform.client(Service.ORDER).orders
        order = await calls.get(id_)
        return members(order) | {"timeline": [members(item) for item in await calls.timeline(id_)]}

    show_one(ask(found), {"lines": LINES, "timeline": TIMELINE}, as_json=as_json)


@orders.command()
@click.argument("lines", metavar="PRODUCT=UNITS...", nargs=-1, required=True)
@click.option("--user", help="Whose order it is; with a token, the caller's by default.")
@click.option("--coupon", help="A coupon's id.")
@click.option("--later", is_flag=True, help="It is paid later.")
@key
@as_json
def place(lines: tuple[str, ...], later: bool, as_json: bool, **options: str | None) -> None:
    """Place an order, and wait for its result."""
    payment: Literal["now", "later"] = "later" if later else "now"
    units = _units(lines)

    async def placed(platform: Platform) -> Order:
        return await platform.client(Service.ORDER).orders.place(
            units, payment=payment, coupon_id=options["coupon"], user_id=options["user"], key=options["key"]
        )

    show_order(ask(placed), as_json=as_json)


@orders.command()
@click.argument("id_", metavar="ID")
@key
@as_json
def pay(id_: str, key: str | None, as_json: bool) -> None:
    """Pay an order, and wait for its result."""
    show_order(ask(lambda platform: platform.client(Service.ORDER).orders.pay(id_, key=key)), as_json=as_json)


@orders.command()
@click.argument("id_", metavar="ID")
@key
@yes
@as_json
def cancel(id_: str, key: str | None, yes: bool, as_json: bool) -> None:
    """Cancel an order, and wait for its result. A paid one is refunded."""
    confirm(f"Cancel order {id_}? If it is paid, it is refunded.", yes=yes)
    show_order(ask(lambda platform: platform.client(Service.ORDER).orders.cancel(id_, key=key)), as_json=as_json)


def show_order(order: Order, *, as_json: bool) -> None:
    """Print an order."""
    show_one(members(order), {"lines": LINES}, as_json=as_json)


def members(model: Any) -> dict[str, Any]:
    """Return the members of an answer, as they came."""
    found: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
    return found


def show_items(
    cells: Cells,
    question: Question[list[dict[str, Any]]],
    columns: Sequence[str],
    id_: str,
    *,
    user: str | None,
    **how: Any,
) -> None:
    """Print a list of the client's, in the order of the items' ids.

    One user's are in one cell. With a token, a list without a user is the caller's.
    """
    if not cells.urls or (user is None and not has_token()):
        show_merged(cells, question, columns, key=lambda item: item[id_], **how)
        return
    rows, cell = ask_owner(cells, question)
    show_rows([cell | row for row in rows], ("cell", *columns), as_json=how["as_json"])


async def first(
    limit: int, listed: Callable[..., AsyncIterator[Any]], *arguments: str, **chosen: Any
) -> list[dict[str, Any]]:
    """Return the first items of a list of the client's, in pages that are no larger than needed."""
    found: list[dict[str, Any]] = []
    async for item in listed(*arguments, **chosen, page_size=min(limit, PAGE_MAX)):
        found.append(members(item))
        if len(found) == limit:
            break
    return found


def _units(lines: tuple[str, ...]) -> dict[str, int]:
    """Return units by product. Raises UsageError."""
    found: dict[str, int] = {}
    for line in lines:
        product_id, sign, units = line.rpartition("=")
        if not sign:
            product_id, units = line, "1"
        if not (units.isascii() and units.isdigit()) or product_id in found:
            raise click.UsageError(f"{line!r}: give each product once, as PRODUCT=UNITS, such as keyboard=2.")
        found[product_id] = int(units)
    return found
