"""A participant's books are checked in one snapshot: totals that change meanwhile would not agree."""

import json
from typing import Any

from aiohttp.test_utils import make_mocked_request

from services.balance.settings import Settings
from shared.contracts.books import BOOKS_PATH
from shared.participant.routes import book_routes
from shared.postgres.connections import Connection, Pool


async def test_books_are_checked_in_one_snapshot(postgres_url: str) -> None:
    async def read_holds(*_: Any) -> Any:
        raise AssertionError

    async with Pool(Settings(database_url=postgres_url), "test") as pool:

        async def check(db: Connection) -> dict[str, Any]:
            before = await db.fetchval("SELECT pg_current_snapshot()::text")
            async with pool.connection() as other:
                await other.execute("SELECT pg_current_xact_id()")  # as a write would
            return {"snapshots": [before, await db.fetchval("SELECT pg_current_snapshot()::text")]}

        [show] = [route.handler for route in book_routes(pool, "", read_holds, check) if route.path == BOOKS_PATH]
        books = await show(make_mocked_request("GET", BOOKS_PATH))
    assert isinstance(books.body, bytes)
    before, after = json.loads(books.body)["snapshots"]
    assert before == after
