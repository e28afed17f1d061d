"""Acts on several, whose result is shown whatever befalls one of them, and on a replay; where their pages lead."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from tests.infrastructure.waiting import free_port
from tests.integration.console.serving import console

FIRST, SECOND = (f"01a00000-0000-7000-8000-00000000000{number}" for number in (1, 2))
REPLAY = "/admin/v1/replays/{id}"
WHY = {"reason": "why", "by": "sue"}


@asynccontextmanager
async def operators_api(status: int) -> AsyncIterator[str]:
    """Serve an order service that forces every saga but the second, to which it answers with this status."""

    async def force(request: web.Request) -> web.Response:
        saga = request.match_info["id"]
        if saga == SECOND and not (await request.json())["dry_run"]:
            body = {"type": "/problems/refused", "status": status, "detail": "your token has expired"}
            return web.json_response(body, status=status, content_type="application/problem+json")
        return web.json_response({"sagas": [saga], "dry_run": False})

    async def sagas(_request: web.Request) -> web.Response:
        return web.json_response({"items": [{"saga_id": FIRST}, {"saga_id": SECOND}]})

    async with api({("GET", "/admin/v1/sagas"): sagas, ("POST", "/admin/v1/sagas/{id}/force"): force}) as url:
        yield url


@asynccontextmanager
async def api(handlers: Mapping[tuple[str, str], Handler]) -> AsyncIterator[str]:
    """Serve these calls."""
    app = web.Application()
    for place, handler in handlers.items():
        app.router.add_route(*place, handler)
    runner, port = web.AppRunner(app, access_log=None), free_port()
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [401, 403, 409])
async def test_result_of_all_is_shown_when_one_is_refused(status: int) -> None:
    async with operators_api(status) as url, console(order_admin_url=url) as browser:
        tried = await browser.submit("/services", "/sagas/all/force", **WHY)
        assert tried.has('name="next" value="/sagas"'), "a choice of colours would else send the form again, as GET"
        done = await browser.post("/sagas/all/force", tried.hidden())
        assert done.status == 200
        assert done.has("1 of 2 done and recorded.", FIRST, SECOND, "your token has expired")


async def test_replay_is_cancelled_for_a_reason_only() -> None:
    path, asked = f"/outbox/replays/{FIRST}/cancel", []

    async def cancel(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({})

    async def replay(_request: web.Request) -> web.Response:
        return web.json_response({"topic": "again", "events": 2})

    calls: Mapping[tuple[str, str], Handler] = {("GET", REPLAY): replay, ("POST", f"{REPLAY}/cancel"): cancel}
    async with api(calls) as url, console(relay_admin_url=url) as browser:
        again = await browser.submit(path, path, by="sue")
        assert (again.status, again.has("Say why, and who you are.", "again"), asked) == (400, True, [])
        done = await browser.submit(path, path, **WHY)
    assert (done.status, done.headers["Location"]) == (303, "/outbox#replays")
    assert asked == [{"reason": "why", "actor": "sue"}]
