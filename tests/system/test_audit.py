"""The operators' tools beside `make run`: `make audit`, and their listener."""

import asyncio
import json
import os
import re
import signal
import sys
from uuid import uuid4

import aiohttp
import asyncpg

from deploy.local.configuration import ROOT
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order, wait_until_sagas_ended
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually

HOLD = "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES ($1, $2, 3, 1000)"
TAKE = "UPDATE products.products SET stock = stock - 3 WHERE product_id = $1"


async def started(stack: Stack, module: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start a command beside the local run."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env=environment | {"LOCAL_DIR": str(stack.folder)},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )


async def run(stack: Stack, module: str, *arguments: str) -> tuple[int | None, str]:
    """Run a command beside the local run; return its status and output."""
    program = await started(stack, module, *arguments)
    out, _ = await program.communicate()
    return program.returncode, out.decode()


async def test_make_audit_compares_the_local_run_s_orders_with_its_books(stack: Stack, shop: Shop) -> None:
    user = await a_user(shop)
    body = an_order(user, await a_product(shop), coupon_id=await a_coupon(shop, user))
    await shop.order.post("/v1/orders", body)
    for _ in range(3):  # sums that exceed 64 bits
        await a_product(shop, stock=2**63 - 1)
        await a_user(shop, 2**63 - 1)
    await wait_until_sagas_ended(stack)

    async def all_audited() -> bool:  # the youngest orders are audited only after the grace period
        status, out = await run(stack, "deploy.local.audit", "--json")
        report = json.loads(out)
        assert (status, report["clean"], report["findings"]) == (0, True, [])
        totals = report["totals"]
        assert min(int(totals["product"]["stock"]), int(totals["balance"]["accounts"])) > 2**64
        return int(report["orders"]) >= 1

    await eventually(all_audited, 30, "an audit of the order")


async def test_make_audit_prints_a_verdict_and_the_command_that_repairs(stack: Stack, shop: Shop) -> None:
    product, order_id = await a_product(shop), uuid4()
    await wait_until_sagas_ended(stack)
    status, out = await run(stack, "deploy.local.audit")
    assert (status, out.count("\n")) == (0, 1)
    assert re.fullmatch(r"✓ \d+ orders?, 0 findings\n", out)
    connection = await asyncpg.connect(stack.database.url)
    try:
        async with connection.transaction():
            await connection.execute(HOLD, order_id, product)
            await connection.execute(TAKE, product)
    finally:
        await connection.close()
    status, out = await run(stack, "deploy.local.audit")
    assert status == 4
    assert re.match(r"✗ \d+ orders?, 1 finding, worth 3 units of stock\n", out)
    assert f"orphan  product  {order_id}  nothing  {product}: 3" in out
    assert "make repair " in out
    status, out = await run(stack, "deploy.local.repair", "--by", "tester", "--reason", "an orphan of a test")
    assert (status, str(order_id) in out) == (0, True)
    assert (await run(stack, "deploy.local.audit"))[1].startswith("✓")


async def test_make_load_buys_until_ctrl_c(stack: Stack, shop: Shop) -> None:
    program = await started(stack, "deploy.local.load", "--seconds", "600", "--customers", "2")

    async def each_has_bought() -> bool:
        orders = [await shop.order.all_items("/v1/orders", user_id=f"load-{number}") for number in (1, 2)]
        return min(map(len, orders)) > 1

    await eventually(each_has_bought, 30, "orders of each customer")
    program.send_signal(signal.SIGINT)
    out, _ = await program.communicate()
    done = r"\d+ orders in \d+ s: \d+ paid.*\nplaced within \d+ ms \(median\), \d+ ms \(p99\)\n"
    assert (program.returncode, bool(re.fullmatch(done, out.decode()))) == (0, True), out


async def test_operators_routes_are_at_the_address_in_run_json(stack: Stack) -> None:
    services = stack.run()["services"]
    for service, path in {"order": "/admin/v1/sagas", "relay": "/admin/v1/parked"}.items():
        async with aiohttp.ClientSession(services[service]["admin_url"]) as session:
            async with session.get(path) as response:
                assert response.status == 200
            async with session.get("/docs") as response:
                assert response.status == 200
    assert [name for name, entry in services.items() if "admin_url" in entry] == ["order", "relay"]
