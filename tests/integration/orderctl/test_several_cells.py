"""orderctl with several cells: merged lists, cells that do not answer, and the cell that a command is for."""

import json
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from shared.process.exits import Exit
from tests.infrastructure.orderctl import Ended, orderctl
from tests.infrastructure.waiting import free_port
from tests.integration.client.samples import COUPON, ORDER_ID, PRODUCT, an_order
from tests.integration.client.server import Act, Server, answer, misbehaving, refuse

WHY = ("--reason", "a test", "--by", "tester")
NEWER_ID = ORDER_ID.replace("0", "1", 1)
SOON = {"ORDERCTL_DEADLINE_SECONDS": "2"}  # the cell that lives must answer in this time on a busy machine
SILENT = refuse(403, "forbidden")  # a cell that does not say what it has
SAGA = {"saga_id": ORDER_ID, "status": "RUNNING", "timeline": []}
EVENT = {"order_id": ORDER_ID, "sequence": 1, "type": "order.paid.v1", "event_id": NEWER_ID}
REPLAY = {"replay_id": ORDER_ID, "topic": "again", "state": "RUNNING"}
UNKNOWN: Mapping[str, Act] = {
    "sagas": refuse(404, "saga-not-found"),
    "outbox": refuse(404, "event-not-parked"),
    "replays": refuse(404, "replay-not-found"),
}


@pytest_asyncio.fixture
async def cells() -> AsyncIterator[list[Server]]:
    """Serve what the test tells, as one listener of each of two cells."""
    async with misbehaving() as one, misbehaving() as other:
        yield [one, other]


def of(*urls: str) -> list[str]:
    """Return the options that name cells."""
    return [word for url in urls for word in ("--cell", url)]


async def said(cells: list[Server], *arguments: str, **settings: str) -> Ended:
    return await orderctl(settings, *arguments, *of(*(cell.url for cell in cells)))


def page(*orders: str) -> Act:
    return answer(200, {"items": [an_order() | {"order_id": id_} for id_ in orders], "next_cursor": None})


async def test_orders_of_all_cells_are_one_list_that_names_the_cells(cells: list[Server]) -> None:
    one, other = cells
    for server, id_ in ((one, ORDER_ID), (other, NEWER_ID)):
        server.will(page(id_), page(id_), page(id_))
    listed = await said(cells, "orders", "list", "--json")
    assert listed.status == Exit.DONE, listed
    rows = json.loads(listed.out)
    assert rows == [
        {"cell": other.url, **an_order(), "order_id": NEWER_ID},
        {"cell": one.url, **an_order(), "order_id": ORDER_ID},
    ]
    assert [row["cell"] for row in json.loads((await said(cells, "orders", "list", "--limit", "1", "--json")).out)] == [
        other.url
    ]
    named = {"ORDERCTL_ORDER_CELLS": f"{one.url} {other.url}"}
    text = (await orderctl(named, "orders", "list")).out.splitlines()
    assert text[0].split()[:2] == ["cell", "order_id"]
    assert [line.split()[:2] for line in text[1:]] == [[other.url, NEWER_ID], [one.url, ORDER_ID]]


@pytest.mark.parametrize(
    ("command", "items"),
    [
        (("sagas", "list"), [{"started_at": "2026-01-05T09:30:00Z"}, {"started_at": "2026-01-05T09:30:00.5Z"}]),
        (("sagas", "acts"), [{"at": "2026-01-05T09:30:01Z"}, {"at": "2026-01-05T09:30:00Z"}]),
        (("sagas", "leases"), [{"held": True, "process_id": "b"}, {"held": False, "process_id": "a"}]),
        (("sagas", "versions"), [{"version": 1}, {"version": 2}]),
        (("outbox", "list"), [{"order_id": ORDER_ID, "sequence": 1}, {"order_id": ORDER_ID, "sequence": 2}]),
        (("outbox", "acts"), [{"at": "2026-01-05T09:30:01Z"}, {"at": "2026-01-05T09:30:00Z"}]),
        (("replays", "list"), [{"created_at": "2026-01-05T09:30:01Z"}, {"created_at": "2026-01-05T09:30:00Z"}]),
        (("coupons", "list"), [{"coupon_id": "A"}, {"coupon_id": "B"}]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_each_list_is_merged_in_its_order(
    cells: list[Server], command: tuple[str, str], items: list[Mapping[str, object]]
) -> None:
    if command[0] == "coupons":
        items = [{**COUPON, **item} for item in items]
    # The first cell has the later row.
    for server, item in zip(cells, reversed(items), strict=True):
        server.will(answer(200, {"items": [item], "next_cursor": None}))
    listed = await said(cells, *command, "--json")
    assert listed.status == Exit.DONE, listed
    assert json.loads(listed.out) == [
        {"cell": server.url, **item} for server, item in zip(reversed(cells), items, strict=True)
    ]


async def test_list_without_a_cell_that_does_not_answer_is_status_1_and_names_it(cells: list[Server]) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    cells[0].will(page(ORDER_ID))
    listed = await orderctl(SOON, "orders", "list", "--json", *of(cells[0].url, dead))
    assert (listed.status, len(json.loads(listed.out))) == (Exit.FAILED, 1)
    assert listed.err.startswith(f"{dead}: no final answer")
    cells[0].will(answer(200, {"items": []}))
    cells[1].will(SILENT)
    versions = await said(cells, "sagas", "versions", "--version", "1")
    assert versions.status == Exit.FAILED, "nobody knows whether the version is drained"


async def test_products_of_all_shards_are_one_list_that_names_the_shards(cells: list[Server]) -> None:
    for server, id_ in zip(cells, ("mug", "kettle"), strict=True):
        server.will(answer(200, {"items": [PRODUCT | {"product_id": id_}], "next_cursor": None}))
    named = {"ORDERCTL_PRODUCT_SHARDS": " ".join(server.url for server in cells)}
    rows = json.loads((await orderctl(named, "stock", "list", "--json")).out)
    assert [(row["shard"], row["product_id"]) for row in rows] == [(cells[1].url, "kettle"), (cells[0].url, "mug")]


async def test_versions_of_all_cells_must_be_drained(cells: list[Server]) -> None:
    cells[0].will(answer(200, {"items": []}))
    cells[1].will(answer(200, {"items": [{"version": 1, "live": 2}]}))
    assert (await said(cells, "sagas", "versions", "--version", "1")).status == Exit.NOT_DRAINED


@pytest.mark.parametrize(
    ("arguments", "settings"), [(["--user", "alice"], {}), ([], {"ORDERCTL_TOKEN": "alices"})], ids=["named", "caller"]
)
async def test_list_of_a_user_comes_from_the_cell_that_owns_the_slot(
    cells: list[Server], arguments: list[str], settings: dict[str, str]
) -> None:
    cells[0].will(refuse(421, "misdirected", {"slot": 3143}))
    cells[1].will(page(ORDER_ID))
    listed = await said(cells, "orders", "list", *arguments, "--json", **settings)
    assert listed.status == Exit.DONE, listed
    assert [row["cell"] for row in json.loads(listed.out)] == [cells[1].url]


@pytest.mark.parametrize(
    ("command", "probe", "done"),
    [
        (("sagas", "force"), answer(200, SAGA), {"sagas": [ORDER_ID], "dry_run": False}),
        (("outbox", "skip"), answer(200, {"events": [EVENT], "dry_run": True}), {"events": [EVENT], "dry_run": False}),
        (("replays", "cancel"), answer(200, REPLAY), REPLAY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_act_is_done_by_the_cell_that_has_what_it_is_about(
    cells: list[Server], command: tuple[str, str], probe: Act, done: object
) -> None:
    cells[0].will(UNKNOWN[command[0]])
    cells[1].will(probe, answer(200, done))
    ended = await said(cells, *command, ORDER_ID, *WHY)
    assert ended.status == Exit.DONE, ended
    assert cells[1].url in ended.out
    asked, acted = cells[1].received
    assert acted.path.endswith(f"/{ORDER_ID}/{command[1]}")
    for received in (asked, *cells[0].received):
        assert received.method == "GET" or json.loads(received.body)["dry_run"] is True


async def test_refused_act_is_that_cells_refusal(cells: list[Server]) -> None:
    cells[0].will(answer(200, SAGA), refuse(409, "saga-not-in-state"))
    cells[1].will(UNKNOWN["sagas"])
    ended = await said(cells, "sagas", "force", ORDER_ID, *WHY)
    assert (ended.status, ended.err) == (Exit.FAILED, "409 saga-not-in-state: saga-not-in-state\n")


async def test_what_no_cell_has_is_missing_only_if_all_have_said_so(cells: list[Server]) -> None:
    for server in cells:
        server.will(UNKNOWN["sagas"])
    assert (await said(cells, "sagas", "show", ORDER_ID)).err == "404 saga-not-found: saga-not-found\n"
    cells[0].will(UNKNOWN["sagas"])
    cells[1].will(SILENT)
    ended = await said(cells, "sagas", "show", ORDER_ID)
    assert ended.status == Exit.FAILED
    assert ended.err.startswith("no other cell has it, and not every cell has answered:\n")
    assert ended.err.endswith(f"{cells[1].url}: 403 forbidden: forbidden\n")


async def test_cell_that_does_not_answer_does_not_keep_another_from_acting(cells: list[Server]) -> None:
    cells[0].will(answer(200, SAGA), answer(200, {"sagas": [ORDER_ID], "dry_run": False}))
    cells[1].will(SILENT)
    ended = await said(cells, "sagas", "retry", ORDER_ID, *WHY)
    assert ended.status == Exit.DONE, ended


async def test_nothing_is_done_if_two_cells_have_it(cells: list[Server]) -> None:
    for server in cells:
        server.will(answer(200, SAGA))
    ended = await said(cells, "sagas", "resolve", ORDER_ID, *WHY)
    assert (ended.status, ended.err) == (
        Exit.FAILED,
        f"{cells[0].url} and {cells[1].url} have it: choose one with --cell\n",
    )


async def test_retry_of_everything_is_done_in_each_cell(cells: list[Server]) -> None:
    for server, id_ in zip(cells, (ORDER_ID, NEWER_ID), strict=True):
        server.will(answer(200, {"sagas": [id_], "dry_run": False}))
    ended = await said(cells, "sagas", "retry", "--all", "--json", *WHY)
    assert json.loads(ended.out) == [
        {"cell": server.url, "did": "retry", "saga_id": id_}
        for server, id_ in zip(cells, (ORDER_ID, NEWER_ID), strict=True)
    ]


async def test_replay_is_of_one_cell(cells: list[Server]) -> None:
    start = ("replays", "start", "again", *WHY)
    assert (await said(cells, *start)).status == Exit.MISCONFIGURED
    cells[1].will(answer(201, REPLAY | {"state": "DONE"}))
    assert (await said(cells[1:], *start)).status == Exit.DONE


@pytest.mark.parametrize("wrong", [of("ftp://a", "http://b"), of("http://a", "http://a/")])
async def test_wrong_cells_are_status_2(wrong: list[str]) -> None:
    assert (await orderctl({}, "sagas", "list", *wrong)).status == Exit.MISCONFIGURED


def a_report(slots: str, **changed: object) -> Act:
    clean = {"clean": True, "orders": 8, "under_way": 0, "violations": 0, "findings": []}
    return answer(200, clean | {"cell": {"slots": slots, "slots_since": None}} | changed)


async def test_audit_without_one_of_the_cells_is_status_1_and_names_it(cells: list[Server]) -> None:
    for clean, status in ((True, Exit.FAILED), (False, Exit.NOT_CLEAN)):
        cells[0].will(a_report("0-2047 older", clean=clean))
        cells[1].will(refuse(403, "forbidden"))
        ended = await said(cells, "audit", "--json")
        assert (ended.status, ended.err) == (status, f"{cells[1].url}: 403 forbidden: forbidden\n")
        report = json.loads(ended.out)
        assert (report["clean"], len(report["cells"]), len(report["failed"])) == (False, 1, 1)


async def test_repair_runs_in_each_cell_if_they_divide_all_slots(cells: list[Server]) -> None:
    done = {"commands": [{"type": "refund", "order_id": ORDER_ID}], "refused": [], "dry_run": False}
    for server, slots in zip(cells, ("0-2047 older", "2048-4095"), strict=True):
        server.will(a_report(slots), answer(200, done))
    ended = await said(cells, "repair", *WHY)
    assert ended.status == Exit.DONE, ended
    assert [line.split() for line in ended.out.splitlines()] == [
        ["cell", "did", "order_id"],
        *([server.url, "refund", ORDER_ID] for server in cells),
    ]
    cells[0].will(a_report("0-2047 older"))
    cells[1].will(a_report("2047-4095"))
    ended = await said(cells, "repair", *WHY)
    assert ended.status == Exit.NOT_CLEAN
    assert f"slots 2047: of {cells[0].url} and {cells[1].url}" in ended.err
