"""Which requests of the playground are served. Only a browser that shows the playground is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from deploy.console import assets, guard
from deploy.console.application import finish
from deploy.console.guard import Refused
from deploy.local.playground.pages import COOKIE, FILES, Pages, Playground

HOST = "127.0.0.1"
BODY_MAX = 4096  # bytes; the largest form has a token and three names
CLOSE_SECONDS = 0.5  # of the ten within which everything stops

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(playground: Playground, port: int) -> AsyncIterator[None]:
    """Serve the pages; at the end undo what is broken."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(playground.books.close)
        stack.push_async_callback(playground.shop.close, CLOSE_SECONDS)
        stack.push_async_callback(playground.faults.close)
        watching = asyncio.create_task(playground.watch())
        stack.callback(watching.cancel)
        origin = f"http://{HOST}:{port}"
        runner = web.AppRunner(application(playground, origin), access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, HOST, port).start()
        yield


def application(playground: Playground, origin: str) -> web.Application:
    """Return the application. `origin`: the address at which browsers show it."""
    pages = Pages(playground)

    @web.middleware
    async def guarded(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            guard.check(request.method, request.headers, (origin,))
            if request.method not in guard.SAFE_METHODS:
                form = await request.post()
                if not playground.sessions.is_form_token(request.cookies.get(COOKIE), str(form.get("form_token", ""))):
                    raise Refused(403, "form")
            return await handler(request)
        except Refused as error:
            return web.Response(status=error.status, text=f"Only the playground's own pages do this ({error.reason}).")

    app = web.Application(client_max_size=BODY_MAX, middlewares=[guarded])
    app.on_response_prepare.append(finish)
    app.router.add_get("/", pages.whole)
    app.router.add_get("/shop", pages.shop)
    app.router.add_get("/platform", pages.platform)
    app.router.add_get("/static/{digest}/{name}", assets.serve)
    for name in FILES:
        app.router.add_get(f"/{name}", pages.file)
    for path, act in (
        ("/buy", pages.buy), ("/pay", pages.pay), ("/cancel", pages.cancel), ("/empty", pages.empty),
        ("/refill", pages.refill), ("/break", pages.break_), ("/undo", pages.undo), ("/audit", pages.audit),
        ("/language", pages.language),
    ):  # fmt: skip
        app.router.add_post(path, act)
    return app
