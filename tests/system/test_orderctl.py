"""orderctl beside the running product: every group of commands, and the example of its page."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

from deploy.orderctl.places import ROOT
from shared.process.exits import Exit
from tests.infrastructure.orderctl import Ended, orderctl
from tests.infrastructure.shopping import new_id, wait_until_sagas_ended
from tests.infrastructure.stack import Stack

PAGE = Path(__file__).parents[2] / "deploy" / "orderctl" / "README.md"
WHY = ("--reason", "a test", "--by", "tester")


async def said(stack: Stack, *arguments: str, status: int = Exit.DONE) -> Ended:
    """Run a command beside the stack."""
    ended = await orderctl({"LOCAL_DIR": str(stack.folder)}, *arguments)
    assert ended.status == status, ended
    return ended


async def found(stack: Stack, *arguments: str) -> Any:
    """Run a command beside the stack, and return the JSON that it printed."""
    return json.loads((await said(stack, *arguments, "--json")).out)


async def a_shop(stack: Stack) -> tuple[str, str]:
    """Create a product and a user with money."""
    product, user = new_id("product"), new_id("user")
    await said(stack, "stock", "create", product, "--name", "Thing", "--price", "100", "--units", "10")
    await said(stack, "accounts", "charge", user, "1000")
    return product, user


async def test_order_is_placed_shown_and_refunded(stack: Stack) -> None:
    product, user = await a_shop(stack)
    coupon = new_id("coupon")
    await said(stack, "coupons", "give", coupon, user, "--percent", "10")
    order = await found(stack, "orders", "place", f"{product}=2", "--user", user, "--coupon", coupon)
    assert (order["status"], order["total_amount"]) == ("PAID", 180)
    shown = await found(stack, "orders", "show", order["order_id"])
    assert [item["step"] for item in shown["timeline"]]
    text = (await said(stack, "orders", "show", order["order_id"])).out
    assert "status: PAID\n" in text
    assert "\nlines:\nproduct_id" in text
    assert (await found(stack, "coupons", "show", coupon))["order_id"] == order["order_id"]
    assert [one["order_id"] for one in await found(stack, "orders", "list", "--user", user)] == [order["order_id"]]
    assert (await found(stack, "orders", "cancel", order["order_id"]))["status"] == "REFUNDED"
    assert (await found(stack, "accounts", "show", user))["balance"] == 1000
    kinds = [entry["kind"] for entry in await found(stack, "accounts", "entries", user, "--limit", "2")]
    assert kinds == ["refund", "debit"]


async def test_order_is_paid_later_and_refusals_are_status_1(stack: Stack) -> None:
    product, user = await a_shop(stack)
    order = await found(stack, "orders", "place", product, "--later", "--user", user)
    assert (await found(stack, "orders", "pay", order["order_id"]))["status"] == "PAID"
    refused = await said(stack, "orders", "place", f"{product}=1000", "--user", user, status=Exit.FAILED)
    assert refused.err.startswith("400 out-of-stock: ")


async def test_stock_is_changed_and_listed(stack: Stack) -> None:
    product, _ = await a_shop(stack)
    assert (await found(stack, "stock", "add", product, "5"))["stock"] == 15
    assert (await found(stack, "stock", "take", product, "1"))["stock"] == 14
    assert (await found(stack, "stock", "change", product, "--price", "7"))["price"] == 7
    assert len(await found(stack, "stock", "list", "--limit", "1")) == 1


async def test_operators_commands_reach_the_order_service_and_the_relay(stack: Stack) -> None:
    product, user = await a_shop(stack)
    order = await found(stack, "orders", "place", product, "--user", user)
    saga = await found(stack, "sagas", "show", order["order_id"])
    assert saga["status"] == "DONE"
    refused = await said(stack, "sagas", "force", saga["saga_id"], *WHY, status=Exit.FAILED)
    assert refused.err.startswith("409 saga-not-in-state: ")
    for command in (
        ("sagas", "list"),
        ("sagas", "acts"),
        ("sagas", "versions"),
        ("outbox", "list"),
        ("outbox", "acts"),
    ):
        assert isinstance(await found(stack, *command), list)
        await said(stack, *command)
    assert await found(stack, "outbox", "retry", "--all", *WHY, "--dry-run") == []


async def test_replay_is_started_waited_for_and_listed(stack: Stack) -> None:
    product, user = await a_shop(stack)
    order = await found(stack, "orders", "place", product, "--user", user)
    await wait_until_sagas_ended(stack)  # and its event is published
    topic = new_id("again")
    replay = await found(stack, "replays", "start", topic, "--order", order["order_id"], "--wait", *WHY)
    assert (replay["state"], replay["events"], replay["actor"]) == ("DONE", 1, "tester")
    assert replay["replay_id"] in [one["replay_id"] for one in await found(stack, "replays", "list")]
    assert f"topic: {topic}\n" in (await said(stack, "replays", "show", replay["replay_id"])).out


async def test_audit_and_repair_of_books_that_agree_are_status_0(stack: Stack) -> None:
    await wait_until_sagas_ended(stack)
    assert re.fullmatch(r"✓ [\d,]+ orders?, 0 findings\n(  not compared yet, .*\n)?", (await said(stack, "audit")).out)
    assert (await found(stack, "audit"))["clean"] is True
    assert (await found(stack, "repair", *WHY, "--dry-run"))["commands"] == []


async def test_commands_of_the_page_run(stack: Stack) -> None:
    await orderctl({"LOCAL_DIR": str(stack.folder)}, *shlex.split("stock create mouse --name M --price 1 --units 99"))
    await orderctl({"LOCAL_DIR": str(stack.folder)}, *shlex.split("stock create keyboard --name K --price 1 --units 9"))
    await said(stack, "accounts", "charge", "alice", "1000000")
    await wait_until_sagas_ended(stack)
    (block,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert all(line[0] == "orderctl" for line in lines)
    for line in lines:
        await said(stack, *line[1:])


def test_script_of_the_checkout_can_be_executed() -> None:
    assert os.access(ROOT / "deploy" / "orderctl" / "orderctl", os.X_OK)
