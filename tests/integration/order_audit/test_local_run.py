"""The operators' tools beside `make run`: `make audit`, and their listener."""

import asyncio
import json
import os
import sys

import aiohttp

from deploy.local.configuration import ROOT
from tests.infrastructure.shopping import a_coupon, a_product, a_user, an_order, wait_until_sagas_ended
from tests.infrastructure.stack import Shop, Stack
from tests.infrastructure.waiting import eventually


async def test_make_audit_compares_the_local_run_s_orders_with_its_books(stack: Stack, shop: Shop) -> None:
    user = await a_user(shop)
    body = an_order(user, await a_product(shop), coupon_id=await a_coupon(shop, user))
    await shop.order.post("/v1/orders", body)
    for _ in range(3):  # sums that exceed 64 bits
        await a_product(shop, stock=2**63 - 1)
        await a_user(shop, 2**63 - 1)
    await wait_until_sagas_ended(stack)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}

    async def all_audited() -> bool:  # the youngest orders are audited only after the grace period
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.local.audit", "--json"),
            env=environment | {"LOCAL_DIR": str(stack.folder)},
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await program.communicate()
        report = json.loads(out)
        assert (program.returncode, report["clean"], report["findings"]) == (0, True, [])
        totals = report["totals"]
        assert min(int(totals["product"]["stock"]), int(totals["balance"]["accounts"])) > 2**64
        return int(report["orders"]) >= 1

    await eventually(all_audited, 30, "an audit of the order")


async def test_operators_routes_are_at_the_address_in_run_json(stack: Stack) -> None:
    services = stack.run()["services"]
    async with aiohttp.ClientSession(services["order"]["admin_url"]) as session:
        async with session.get("/admin/v1/sagas") as response:
            assert response.status == 200
        async with session.get("/docs") as response:
            assert response.status == 200
    assert [name for name, entry in services.items() if "admin_url" in entry] == ["order"]
