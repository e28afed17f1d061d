"""The routes on which a participant shows its books to the audit."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from aiohttp import web

from shared.contracts.books import BOOKS_PATH, BOOKS_SECONDS, HOLDS_PATH, Books, HoldsPage, HoldsQuery
from shared.http.routes import Route
from shared.http.server import reply
from shared.http.wire import read_query
from shared.integers import to_json
from shared.postgres import Connection, Pool, Row

ReadHolds = Callable[[Connection, UUID, UUID, int], Awaitable[Sequence[Row | Mapping[str, Any]]]]


def book_routes(
    pool: Pool, read_holds: ReadHolds, check: Callable[[Connection], Awaitable[dict[str, Any]]]
) -> list[Route]:
    """Return the routes.

    `read_holds` takes `after` (exclusive), `until` (inclusive) and a limit, and returns order_id and holds of
    that many orders in order of id. `check` returns the participant's own checks and totals as Books.
    """

    async def show_holds(request: web.Request) -> web.Response:
        query = read_query(request, HoldsQuery)
        after, until = query.bounds()
        async with pool.connection() as db:
            rows = await read_holds(db, after, until, query.limit)
        return reply({"items": [dict(row) for row in rows]})

    async def show_books(_request: web.Request) -> web.Response:
        # One snapshot for all checks: totals that change while they are added up would not agree.
        async with pool.connection() as db, db.transaction(isolation="repeatable_read", readonly=True):
            books = await check(db)
        return reply(to_json(books))

    tags = ("internal",)
    return [
        Route(
            "GET", HOLDS_PATH, show_holds, "What is held for which order", {200: HoldsPage}, (), None, HoldsQuery, tags
        ),
        Route(
            "GET",
            BOOKS_PATH,
            show_books,
            "Whether the books add up",
            {200: Books},
            tags=tags,
            deadline_seconds=BOOKS_SECONDS,
        ),
    ]


def book_check(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return one check as Books shows it. Each row breaks the rule and says in `violations` how many do."""
    examples = [{key: value for key, value in row.items() if key != "violations"} for row in rows]
    return {"name": name, "violations": rows[0]["violations"] if rows else 0, "examples": examples}
