"""`python -m services.order.admin`: every command, its JSON, its dry run and its exit status."""

import json
import os
import subprocess

import pytest

from tests.infrastructure import forks
from tests.infrastructure.books import violations
from tests.infrastructure.checkout import Checkout
from tests.infrastructure.reaper import Reaper
from tests.integration.order_admin.operators import a_case, blocked, command, go_on, place, placed, untouched

pytestmark = pytest.mark.asyncio(loop_scope="module")
WHO = ("--by", "sue", "--reason", "a test")
NOBODY = "00000000-0000-7000-8000-000000000000"


async def test_list_and_show_print_live_sagas(checkout: Checkout) -> None:
    nothing = await command(checkout, "list")
    assert (nothing.status, nothing.out) == (0, "none")
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        (saga,) = (await command(checkout, "list", "--json")).json
        assert (saga["order_id"], saga["kind"], saga["status"]) == (case.order_id, "place_now", "RUNNING")
        table = (await command(checkout, "list")).out.splitlines()
        assert table[0].split()[:3] == ["saga_id", "order_id", "kind"]
        assert table[1].split()[:3] == [saga["saga_id"], case.order_id, "place_now"]
        assert (await command(checkout, "list", "--json", "--state", "stuck")).json == []
        assert (await command(checkout, "list", "--json", "--older-than", "3600")).json == []
        shown = (await command(checkout, "show", case.order_id, "--json")).json
        assert shown == (await command(checkout, "show", saga["saga_id"], "--json")).json
        assert shown["remaining"] == ["hold_stock", "redeem_coupon", "debit"]
        text = (await command(checkout, "show", case.order_id)).out
        assert "timeline:" in text
        assert f"saga_id: {saga['saga_id']}" in text
    await checkout.until_idle()


async def test_retry_and_force_do_what_their_dry_run_says(checkout: Checkout) -> None:
    async with blocked(checkout, "coupon"):
        case = await place(checkout, await a_case(checkout), "now")
        saga_id = (await command(checkout, "show", case.order_id, "--json")).json["saga_id"]
        for arguments in (("retry", case.order_id), ("retry", "--all"), ("force", saga_id)):
            would = await command(checkout, *arguments, *WHO, "--dry-run", "--json")
            assert (would.status, would.json) == (0, [{"would": arguments[0], "saga_id": saga_id}])
        assert (await command(checkout, "acts", "--json")).json == []
        for arguments in (("retry", case.order_id), ("retry", "--all"), ("force", saga_id)):
            did = await command(checkout, *arguments, *WHO, "--json")
            assert (did.status, did.json) == (0, [{"did": arguments[0], "saga_id": saga_id}])
    await checkout.until_idle()
    assert await untouched(checkout, case)
    acts = (await command(checkout, "acts", "--json")).json
    assert [(one["act"], one["actor"], one["reason"]) for one in acts] == [
        ("force", "sue", "a test"),
        ("retry", "sue", "a test"),
        ("retry", "sue", "a test"),
    ]


async def test_resolve_ends_a_saga_by_hand(checkout: Checkout) -> None:
    paid = await placed(checkout, "now")
    async with blocked(checkout, "product"):
        case = await go_on(checkout, paid, "cancel")
        would = await command(checkout, "resolve", case.order_id, *WHO, "--dry-run")
        assert (would.status, would.out.splitlines()[0].split()) == (0, ["would", "saga_id"])
        await checkout.shop.product.command({"type": "restore_stock", "order_id": case.order_id, "attempt": 0})
        await checkout.shop.coupon.command({"type": "release_coupon", "order_id": case.order_id, "attempt": 0})
        await checkout.shop.balance.command({"type": "refund", "order_id": case.order_id, "attempt": 0})
        assert (await command(checkout, "resolve", case.order_id, *WHO)).status == 0
        assert (await command(checkout, "show", case.order_id, "--json")).json["status"] == "COMPENSATED"
    assert await violations(checkout.database.url) == []


async def test_refusal_prints_a_line_and_exits_with_1(checkout: Checkout) -> None:
    ended = await placed(checkout, "now")
    for name in ("retry", "force", "resolve"):
        for dry_run in ([], ["--dry-run"]):
            refused = await command(checkout, name, ended.order_id, *WHO, *dry_run)
            assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 0)
            assert refused.err.startswith("SagaNotInState: Only a ")
    for arguments in (("show", NOBODY), ("force", NOBODY, *WHO)):
        missing = await command(checkout, *arguments)
        assert (missing.status, missing.err.split(":")[0]) == (1, "SagaNotFound")


async def test_audit_exits_with_4_on_findings_and_repair_undoes_orphans(checkout: Checkout) -> None:
    case = await placed(checkout, "now")
    clean = await command(checkout, "audit", "--json")
    assert (clean.status, clean.json["clean"], clean.json["findings"]) == (0, True, [])
    assert clean.json["orders"] >= 1
    await checkout.db.execute("UPDATE products.products SET stock = stock - 2 WHERE product_id = $1", case.product)
    insert = "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) VALUES ($1, $2, 2, 1000)"
    await checkout.db.execute(insert, NOBODY, case.product)
    found = await command(checkout, "audit", "--json")
    assert found.status == 4
    (finding,) = found.json["findings"]
    assert (finding["kind"], finding["participant"], finding["order_id"], finding["worth"]) == (
        "orphan",
        "product",
        NOBODY,
        2,
    )
    assert "orphan" in (await command(checkout, "audit")).out
    would = await command(checkout, "repair", *WHO, "--dry-run", "--json")
    assert (would.status, would.json) == (0, [{"would": "restore_stock", "order_id": NOBODY}])
    assert (await command(checkout, "audit")).status == 4
    did = await command(checkout, "repair", *WHO, "--json")
    assert (did.status, did.json) == (0, [{"did": "restore_stock", "order_id": NOBODY}])
    assert (await command(checkout, "audit")).status == 0
    newest = (await command(checkout, "acts", "--json")).json[0]
    assert (newest["act"], newest["actor"], newest["order_id"]) == ("repair", "sue", NOBODY)
    assert await violations(checkout.database.url) == []


async def test_audit_that_cannot_read_all_books_reports_it_and_is_not_clean(checkout: Checkout) -> None:
    async with blocked(checkout, "balance"):
        failed = await command(checkout, "audit")
    assert (failed.status, failed.out) == (1, "")
    assert failed.err.startswith("Unavailable: The balance service did not answer")


async def test_drain_status_exits_with_3_while_a_version_has_live_sagas(checkout: Checkout) -> None:
    assert (await command(checkout, "drain-status", "--version", "1")).status == 0
    async with blocked(checkout, "coupon"):
        await place(checkout, await a_case(checkout), "now")
        (version,) = (await command(checkout, "drain-status", "--json")).json
        assert (version["version"], version["live"], version["known"]) == (1, 1, True)
        assert (await command(checkout, "drain-status", "--version", "1")).status == 3
        assert (await command(checkout, "drain-status", "--version", "2")).status == 0
    await checkout.until_idle()


async def test_leases_lists_who_has_how_many_sagas(checkout: Checkout) -> None:
    process_id = (await checkout.shop.order.get("/readyz"))["process_id"]
    async with blocked(checkout, "coupon"):
        await place(checkout, await a_case(checkout), "now")
        (own,) = (await command(checkout, "leases", "--json")).json
        assert (own["process_id"], own["held"], own["live"]) == (process_id, True, 1)
        assert own["oldest"] is not None
        assert own["lease_until"] > own["oldest"]
        # Of a version that no process knows, so that none takes it.
        moved = "UPDATE orders.sagas SET owner = $1, version = version + $2 WHERE status = 'RUNNING'"
        await checkout.db.execute(moved, NOBODY, 50)
        own, orphaned = (await command(checkout, "leases", "--json")).json
        assert (own["process_id"], own["held"], own["live"], own["oldest"]) == (process_id, True, 0, None)
        assert (orphaned["process_id"], orphaned["held"], orphaned["live"]) == (NOBODY, False, 1)
        assert orphaned["lease_until"] is None
        await checkout.db.execute(moved, NOBODY, -50)
    await checkout.until_idle()


async def test_command_line_needs_only_the_database_and_exits_with_2_on_wrong_usage(
    checkout: Checkout, reaper: Reaper
) -> None:
    environment = {"PATH": os.environ["PATH"], "ORDER_DATABASE_URL": checkout.database.as_role("order_service")}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return forks.run("services.order.admin", *arguments, environment=environment | more, reaper=reaper)

    listed = run("list", "--json")
    assert (listed.returncode, json.loads(listed.stdout), listed.stderr) == (0, [], "")
    assert run("force", NOBODY).returncode == 2, "no reason"
    assert run("list", ORDER_LEASE_SECONDS="0").stderr.startswith("setting ORDER_LEASE_SECONDS")
    away = run("list", ORDER_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    assert (away.returncode, away.stderr.count("\n"), away.stderr.split(":")[0]) == (1, 1, "Unavailable")
