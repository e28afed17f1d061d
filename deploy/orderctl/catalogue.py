"""`orderctl stock`, `coupons` and `accounts`: what the participants have."""

from datetime import datetime
from typing import Any, Literal

import click

from deploy.client import Service
from deploy.orderctl.merging import show_merged
from deploy.orderctl.options import as_json, cells, key, limit
from deploy.orderctl.orders import first, members, show_items
from deploy.orderctl.output import show_one, show_rows
from deploy.orderctl.places import Cells
from deploy.orderctl.platform import Platform, ask

PRODUCTS = ("product_id", "name", "price", "currency", "stock")
COUPONS = ("coupon_id", "user_id", "kind", "value", "status", "order_id", "expires_at")
ENTRIES = ("number", "kind", "amount", "balance_after", "currency", "order_id", "created_at")


@click.group()
def stock() -> None:
    """Products: list, show, create, change, add and take units."""


@stock.command("list")
@limit
@cells("product")
@as_json
def list_products(limit: int, cells: Cells, as_json: bool) -> None:
    """List products by id."""

    async def found(platform: Platform) -> list[dict[str, Any]]:
        return await first(limit, platform.client(Service.PRODUCT).products.list)

    show_merged(cells, found, PRODUCTS, key=lambda product: product["product_id"], limit=limit, as_json=as_json)


@stock.command("show")
@click.argument("product_id", metavar="PRODUCT")
@as_json
def show_product(product_id: str, as_json: bool) -> None:
    """Show a product."""
    _show(lambda platform: platform.client(Service.PRODUCT).products.get(product_id), as_json=as_json)


@stock.command("create")
@click.argument("product_id", metavar="PRODUCT")
@click.option("--name", required=True)
@click.option("--price", type=click.IntRange(min=0), required=True, help="In minor units of the currency.")
@click.option("--units", type=click.IntRange(min=0), default=0, show_default=True)
@as_json
def create_product(product_id: str, name: str, price: int, units: int, as_json: bool) -> None:
    """Add a product."""
    _show(
        lambda platform: platform.client(Service.PRODUCT).products.create(
            product_id=product_id, name=name, price=price, stock=units
        ),
        as_json=as_json,
    )


@stock.command("change")
@click.argument("product_id", metavar="PRODUCT")
@click.option("--name")
@click.option("--price", type=click.IntRange(min=0), help="In minor units of the currency.")
@as_json
def change_product(product_id: str, name: str | None, price: int | None, as_json: bool) -> None:
    """Change a product's name, price or both. Orders keep theirs."""
    if name is None and price is None:
        raise click.UsageError("Give --name, --price or both.")
    _show(
        lambda platform: platform.client(Service.PRODUCT).products.change(product_id, name=name, price=price),
        as_json=as_json,
    )


@stock.command("add")
@click.argument("product_id", metavar="PRODUCT")
@click.argument("units", type=click.IntRange(min=1))
@as_json
def add_units(product_id: str, units: int, as_json: bool) -> None:
    """Put units in."""
    _show(lambda platform: platform.client(Service.PRODUCT).products.move_stock(product_id, units), as_json=as_json)


@stock.command("take")
@click.argument("product_id", metavar="PRODUCT")
@click.argument("units", type=click.IntRange(min=1))
@as_json
def take_units(product_id: str, units: int, as_json: bool) -> None:
    """Take units out that no order holds."""
    _show(lambda platform: platform.client(Service.PRODUCT).products.move_stock(product_id, -units), as_json=as_json)


@click.group()
def coupons() -> None:
    """Coupons: list, show, give."""


@coupons.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--status", type=click.Choice(["AVAILABLE", "RESERVED", "REDEEMED"]))
@limit
@cells("coupon")
@as_json
def list_coupons(
    user: str | None,
    status: Literal["AVAILABLE", "RESERVED", "REDEEMED"] | None,
    limit: int,
    cells: Cells,
    as_json: bool,
) -> None:
    """List coupons by id."""

    async def found(platform: Platform) -> list[dict[str, Any]]:
        return await first(limit, platform.client(Service.COUPON).coupons.list, user_id=user, status=status)

    show_items(cells, found, COUPONS, "coupon_id", user=user, limit=limit, as_json=as_json)


@coupons.command("show")
@click.argument("coupon_id", metavar="COUPON")
@click.option("--user", help="Whose coupon it is. Needed where there are several cells.")
@as_json
def show_coupon(coupon_id: str, user: str | None, as_json: bool) -> None:
    """Show a coupon."""
    _show(lambda platform: platform.client(Service.COUPON).coupons.get(coupon_id, user_id=user), as_json=as_json)


@coupons.command("give")
@click.argument("coupon_id", metavar="COUPON")
@click.argument("user_id", metavar="USER")
@click.option("--fixed", type=click.IntRange(min=1), help="An amount in minor units of the currency.")
@click.option("--percent", type=click.IntRange(1, 100))
@click.option("--max-discount", type=click.IntRange(min=1))
@click.option("--min-subtotal", type=click.IntRange(min=0), default=0)
@click.option("--expires", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), metavar="TIME", help="2026-01-31T12:00:00Z")
@as_json
def give_coupon(coupon_id: str, user_id: str, as_json: bool, **options: Any) -> None:
    """Give a coupon to a user."""
    if (options["fixed"] is None) is (options["percent"] is None):
        raise click.UsageError("Give --fixed or --percent.")
    kind: Literal["fixed", "percent"] = "percent" if options["fixed"] is None else "fixed"
    expires: datetime | None = options["expires"]
    _show(
        lambda platform: platform.client(Service.COUPON).coupons.create(
            coupon_id=coupon_id,
            user_id=user_id,
            kind=kind,
            value=options[kind],
            max_discount=options["max_discount"],
            min_subtotal=options["min_subtotal"],
            expires_at=expires,
        ),
        as_json=as_json,
    )


@click.group()
def accounts() -> None:
    """Accounts: show, entries, charge."""


@accounts.command("show")
@click.argument("user_id", metavar="USER")
@as_json
def show_account(user_id: str, as_json: bool) -> None:
    """Show a user's account."""
    _show(lambda platform: platform.client(Service.BALANCE).accounts.get(user_id), as_json=as_json)


@accounts.command()
@click.argument("user_id", metavar="USER")
@limit
@as_json
def entries(user_id: str, limit: int, as_json: bool) -> None:
    """List the entries of an account, newest first."""

    async def found(platform: Platform) -> list[dict[str, Any]]:
        return await first(limit, platform.client(Service.BALANCE).accounts.entries, user_id)

    show_rows(ask(found), ENTRIES, as_json=as_json)


@accounts.command()
@click.argument("user_id", metavar="USER")
@click.argument("amount", type=click.IntRange(min=1))
@key
@as_json
def charge(user_id: str, amount: int, key: str | None, as_json: bool) -> None:
    """Pay an amount in, in minor units of the currency. The first charge opens the account."""
    _show(lambda platform: platform.client(Service.BALANCE).accounts.charge(user_id, amount, key=key), as_json=as_json)


def _show(question: Any, *, as_json: bool) -> None:
    show_one(members(ask(question)), as_json=as_json)
