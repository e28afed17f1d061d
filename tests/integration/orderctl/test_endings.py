"""How orderctl ends: its exit status, and one line that says why."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.orderctl.places import ROOT
from shared.process.exits import Exit
from tests.infrastructure.orderctl import all_at, orderctl
from tests.infrastructure.waiting import free_port
from tests.integration.client.samples import ORDER_ID, PRODUCT, an_order
from tests.integration.client.server import Server, answer, break_off, misbehaving, refuse, say

WHY = ("--reason", "a test", "--by", "tester")
CLEAN = {"clean": True, "orders": 8, "under_way": 0, "violations": 0, "findings": []}
ORPHAN = {
    "kind": "orphan",
    "participant": "product",
    "order_id": ORDER_ID,
    "due": {},
    "found": {"keyboard": 3},
    "worth": 3,
}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """Serve what the test tells, as all services."""
    async with misbehaving() as server:
        yield server


async def test_list_is_a_table_and_with_json_what_came(server: Server) -> None:
    page = answer(200, {"items": [an_order()], "next_cursor": None})
    server.will(page, page)
    settings = all_at(server.url)
    listed = await orderctl(settings, "orders", "list", "--user", "alice")
    assert listed.status == Exit.DONE
    assert listed.out.splitlines()[0].split() == [
        *("order_id", "user_id", "status", "total_amount", "currency", "created_at")
    ]
    assert "\x1b" not in listed.out, "no colour in a pipe"
    assert json.loads((await orderctl(settings, "orders", "list", "--json")).out) == [an_order()]


async def test_list_ends_at_its_limit(server: Server) -> None:
    server.will(answer(200, {"items": [an_order(), an_order()], "next_cursor": "0a"}))
    listed = await orderctl(all_at(server.url), "orders", "list", "--limit", "2", "--json")
    assert len(json.loads(listed.out)) == 2
    assert server.received[0].path == "/v1/orders?limit=2"


async def test_refusal_is_one_line_and_status_1(server: Server) -> None:
    server.will(refuse(404, "saga-not-found"))
    ended = await orderctl(all_at(server.url), "sagas", "show", ORDER_ID)
    assert (ended.status, ended.out) == (Exit.FAILED, "")
    assert ended.err == "404 saga-not-found: saga-not-found\n"


async def test_service_that_is_not_there_is_status_1_in_time() -> None:
    settings = all_at(f"http://127.0.0.1:{free_port()}") | {"ORDERCTL_DEADLINE_SECONDS": "0.5"}
    ended = await orderctl(settings, "orders", "show", ORDER_ID)
    assert ended.status == Exit.FAILED
    assert "no final answer; the last attempt: Cannot connect" in ended.err
    assert ended.err.count("\n") == 1


async def test_act_whose_answer_is_lost_is_not_repeated(server: Server) -> None:
    server.will(break_off)
    ended = await orderctl(all_at(server.url), "sagas", "force", ORDER_ID, *WHY)
    assert ended.status == Exit.FAILED
    assert ended.err.endswith("Look whether it has happened before you repeat it.\n")
    assert len(server.received) == 1


async def test_answer_of_something_else_is_status_1(server: Server) -> None:
    server.will(say(200, "<h1>Welcome</h1>"))
    ended = await orderctl(all_at(server.url), "stock", "show", "keyboard")
    assert (ended.status, ended.err.count("\n")) == (Exit.FAILED, 1)


async def test_missing_address_is_named_with_its_setting() -> None:
    ended = await orderctl({"ORDERCTL_URL": "http://127.0.0.1:1"}, "outbox", "list")
    assert (ended.status, ended.err) == (
        Exit.MISCONFIGURED,
        "setting ORDERCTL_RELAY_ADMIN_URL: required for this command\n",
    )


async def test_act_without_a_name_or_a_token_is_status_2(server: Server) -> None:
    ended = await orderctl(all_at(server.url), "sagas", "retry", "--all", "--reason", "a test")
    assert ended.status == Exit.MISCONFIGURED
    assert "ORDERCTL_BY" in ended.err
    assert server.received == []


async def test_token_says_who_acts(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    server.will(answer(200, {"sagas": [ORDER_ID], "dry_run": False}))
    settings = all_at(server.url) | {"ORDERCTL_TOKEN_FILE": str(tmp_path / "token")}
    ended = await orderctl(settings, "sagas", "retry", "--all", "--reason", "a test", "--json")
    assert json.loads(ended.out) == [{"did": "retry", "saga_id": ORDER_ID}]
    (received,) = server.received
    assert received.headers["Authorization"] == "Bearer a-token"
    assert json.loads(received.body) == {"reason": "a test", "dry_run": False}


async def test_audit_ends_with_4_if_it_found_something(server: Server) -> None:
    server.will(answer(200, CLEAN), answer(200, CLEAN | {"clean": False, "violations": 1, "findings": [ORPHAN]}))
    settings = all_at(server.url)
    clean = await orderctl(settings, "audit")
    assert (clean.status, clean.out, clean.err) == (Exit.DONE, "✓ 8 orders, 0 findings\n", "")
    found = await orderctl(settings, "audit")
    assert found.status == Exit.NOT_CLEAN
    assert found.out.startswith("✗ 8 orders, 1 finding, worth 3 units of stock\n")
    assert found.out.endswith('  orderctl repair --reason "why" --dry-run\n')


@pytest.mark.parametrize(("slots", "status"), [("2048-4095", Exit.DONE), ("2047-4095", Exit.NOT_CLEAN)])
async def test_audit_of_cells_ends_with_4_unless_they_divide_all_slots(
    server: Server, slots: str, status: Exit
) -> None:
    settings = all_at(server.url) | {"ORDERCTL_CELLS": f"{server.url} {server.url}/other"}
    cells = [{"slots": words, "slots_since": None} for words in ("0-2047 older", slots)]
    server.will(*(answer(200, CLEAN | {"cell": cell}) for cell in cells))
    ended = await orderctl(settings, "audit")
    assert ended.status == status, ended
    assert ended.out.startswith(f"{server.url}\n✓ 8 orders, 0 findings\n\n{server.url}/other\n✓ 8 orders")
    assert ended.out.endswith(f"slots 2047: of {server.url} and {server.url}/other\n") is (status != Exit.DONE)
    assert sorted(one.path for one in server.received) == ["/admin/v1/audit", "/other/admin/v1/audit"]


async def test_repair_that_a_participant_refuses_ends_with_4(server: Server) -> None:
    command = {"type": "release_stock", "order_id": ORDER_ID}
    refused = {"order_id": ORDER_ID, "type": "/problems/fenced", "detail": "no"}
    server.will(answer(200, {"commands": [command], "refused": [refused], "dry_run": False}))
    ended = await orderctl(all_at(server.url), "repair", *WHY, "--restored", "product")
    assert ended.status == Exit.NOT_CLEAN
    assert "refused:" in ended.out
    assert json.loads(server.received[0].body)["restored"] == ["product"]


async def test_versions_end_with_3_while_sagas_of_the_version_live(server: Server) -> None:
    items = answer(200, {"items": [{"version": 1, "live": 2, "oldest": "2026-01-05T09:30:00Z", "known": True}]})
    server.will(items, items)
    for version, status in (("1", Exit.NOT_DRAINED), ("2", Exit.DONE)):
        assert (await orderctl(all_at(server.url), "sagas", "versions", "--version", version)).status == status


async def test_lost_output_is_status_14(server: Server) -> None:
    server.will(answer(200, PRODUCT))
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230 # opening it waits for nothing
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.orderctl", "stock", "add", "keyboard", "5"),
            cwd=ROOT,
            env=os.environ | all_at(server.url),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complained = await process.communicate()
    assert process.returncode == Exit.OUTPUT_LOST
    assert b"the result could not be written" in complained


async def test_replay_is_waited_for_and_its_end_is_the_status(server: Server) -> None:
    replay = {"replay_id": ORDER_ID, "topic": "again", "state": "RUNNING", "position": 0, "up_to": 9, "events": 0}
    for state, status in (("DONE", Exit.DONE), ("FAILED", Exit.FAILED)):
        server.will(answer(201, replay), answer(200, replay), answer(200, replay | {"state": state, "events": 9}))
        ended = await orderctl(
            all_at(server.url), "replays", "start", "again", "--type", "order.paid.v1", "--wait", "--json", *WHY
        )
        assert (ended.status, json.loads(ended.out)["state"]) == (status, state)
    assert json.loads(server.received[0].body) == {
        "actor": "tester",
        "reason": "a test",
        "topic": "again",
        "type": "order.paid.v1",
    }
