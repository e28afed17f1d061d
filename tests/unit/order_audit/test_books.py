"""The audit understands participants that ignore its slots: those of an earlier version, coupon and balance."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from aiohttp import web

from services.order.audit.books import LAST, BookReader
from services.order.settings import Settings
from shared.contracts.books import SLOTS_TEXT_MAX
from tests.infrastructure.waiting import free_port

URL = "postgresql://localhost/shop"
SINCE = "2026-12-01T00:00:00Z"


@asynccontextmanager
async def earlier_version(orders: Sequence[UUID], asked: list[dict[str, str]]) -> AsyncIterator[str]:
    """Serve holds as the first version did: it knows `after` and `limit` only."""

    async def show(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        after, limit = UUID(request.query["after"]), int(request.query["limit"])
        page = [order for order in orders if order > after][:limit]
        return web.Response(text=json.dumps({"items": [{"order_id": str(one), "holds": {"cup": 1}} for one in page]}))

    app = web.Application()
    app.router.add_get("/internal/v1/holds", show)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("count", [0, 1, 5, 6, 11])
async def test_pages_of_an_earlier_version_are_read_to_their_end(count: int) -> None:
    orders, asked = [UUID(int=number) for number in range(1, count + 1)], list[dict[str, str]]()
    slots = {"slots": "0-2047", "slots_since": SINCE}
    async with earlier_version(orders, asked) as url, BookReader({"product": url}, slots=slots) as books:
        found, after = list[UUID](), UUID(int=0)
        while after != LAST:
            page, after = await books.holds_after("product", after, 5)
            found += page
    assert found == orders
    assert all(query["slots"] == "0-2047" for query in asked)


def cell(slots: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("CELL_SLOTS", slots)
    monkeypatch.setenv("CELL_SLOTS_SINCE", SINCE)
    return Settings(database_url=URL).audited_slots


def test_only_a_cell_among_others_asks_for_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(database_url=URL).audited_slots == {}
    assert cell("older 0-4095", monkeypatch) == {}
    assert cell("0-2047 older", monkeypatch) == {"slots": "0-2047 older", "slots_since": SINCE}


def test_slots_that_are_too_long_to_send_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(map(str, range(0, 4096, 2)))
    assert len(long) > SLOTS_TEXT_MAX
    assert cell(long, monkeypatch) == {}
