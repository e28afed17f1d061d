"""The playground's pages, in a visitor's language, and what each request does."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from deploy.console.rendering import environment
from deploy.console.sessions import Sessions, new_id
from deploy.console.texts import LANGUAGES, Texts, choose, texts
from deploy.local.playground.books import Books
from deploy.local.playground.faults import KINDS, Faults, ImpossibleError, Kind
from deploy.local.playground.health import RUNS, Health
from deploy.local.playground.shop import CUSTOMERS, PRODUCT_IDS, Shop
from deploy.local.supervisor import Say

COOKIE, LANGUAGE_COOKIE = "playground-id", "playground-language"
LANGUAGE_SECONDS = 365 * 24 * 3600
LOOK_SECONDS = 1.0
WATCHED_SECONDS = 10.0  # a page asks each second; without one nobody has to know anything
SAID_SECONDS, SAID_MAX = 20.0, 100
RECENT_SECONDS = 60.0  # how long it is shown that something is back
HERE = Path(__file__).parent
TEXTS = HERE / "texts"
FILES = {"playground.css": "text/css", "playground.js": "text/javascript"}


@dataclass(slots=True)
class Playground:
    """What the pages show and do. `console`: the address of the console."""

    shop: Shop
    faults: Faults
    books: Books
    console: str
    say: Say
    health: Health = field(init=False)
    sessions: Sessions = field(default_factory=Sessions)
    watched_at: float = -WATCHED_SECONDS
    said: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.health = Health(self.faults)

    def say_to(self, visitor: str, part: str, text: str) -> None:
        """Show a sentence in a part of a visitor's page, for a while."""
        self.said.pop((visitor, part), None)
        self.said[visitor, part] = text, time.monotonic()
        while len(self.said) > SAID_MAX:
            del self.said[next(iter(self.said))]

    def said_to(self, visitor: str, part: str) -> str:
        """Return what is to be shown there now."""
        text, at = self.said.get((visitor, part), ("", 0.0))
        return text if time.monotonic() - at < SAID_SECONDS else ""

    async def watch(self) -> None:
        """Look at the processes while somebody watches or something is broken, until cancelled."""
        while True:
            live = self.faults.any_live
            if live or time.monotonic() - self.watched_at < WATCHED_SECONDS:
                try:
                    await self.health.look()
                    self.books.follow(broken=live, ended_at=self.faults.ended_at)
                except Exception as error:  # noqa: BLE001 # a bug of the playground ends nothing of the platform
                    self.say(f"Playground: {error!r}")
            await asyncio.sleep(LOOK_SECONDS)


class Pages:
    """What each path answers."""

    def __init__(self, playground: Playground) -> None:
        self._playground = playground
        self._templates = environment(HERE / "templates")
        self._templates.globals |= {"kinds": KINDS, "customers": CUSTOMERS, "languages": LANGUAGES}
        self._files = {f"/{name}": ((HERE / "static" / name).read_text(), kind) for name, kind in FILES.items()}

    async def whole(self, request: web.Request) -> web.Response:
        """GET /."""
        visitor = request.cookies.get(COOKIE) or new_id()
        self._playground.watched_at = time.monotonic()
        parts = {"shop": await self._shop(request, visitor), "platform": self._platform(request, visitor)}
        said = {part: self._playground.said_to(visitor, part) for part in parts}
        text = self._templates.get_template("page.html").render(
            t=_texts(request),
            form_token=self._playground.sessions.form_token(visitor),
            console=self._playground.console,
            customer=_customer(request.query),
            said=said,
            **parts,
        )
        response = web.Response(text=text, content_type="text/html")
        response.set_cookie(COOKIE, visitor, path="/", httponly=True, samesite="Strict")
        return response

    async def language(self, request: web.Request) -> web.Response:
        """POST /language: choose the language of the pages."""
        form = await request.post()
        response = web.Response(status=303, headers={"Location": f"/?customer={_customer(form)}"})
        if (chosen := str(form.get("language", ""))) in LANGUAGES:
            response.set_cookie(
                LANGUAGE_COOKIE, chosen, max_age=LANGUAGE_SECONDS, path="/", httponly=True, samesite="Strict"
            )
        return response

    async def file(self, request: web.Request) -> web.Response:
        """GET /playground.css and the others."""
        text, kind = self._files[request.path]
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-cache"})

    async def shop(self, request: web.Request) -> web.Response:
        """GET /shop: the part that shows the shop; nothing if the page has it already."""
        return _part(request, await self._shop(request, _visitor(request)))

    async def platform(self, request: web.Request) -> web.Response:
        """GET /platform: the part that shows the processes; nothing if the page has it already."""
        self._playground.watched_at = time.monotonic()
        return _part(request, self._platform(request, _visitor(request)))

    async def buy(self, request: web.Request) -> web.Response:
        """POST /buy."""
        form = await request.post()
        payment = "later" if form.get("payment") == "later" else "now"
        said = await self._playground.shop.buy(_customer(form), _product(form), cast("Any", payment), _texts(request))
        return await self._after(request, "shop", said)

    async def pay(self, request: web.Request) -> web.Response:
        """POST /pay."""
        form = await request.post()
        said = await self._playground.shop.pay(_customer(form), str(form.get("order", "")), _texts(request))
        return await self._after(request, "shop", said)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /cancel."""
        form = await request.post()
        said = await self._playground.shop.cancel(_customer(form), str(form.get("order", "")), _texts(request))
        return await self._after(request, "shop", said)

    async def empty(self, request: web.Request) -> web.Response:
        """POST /empty."""
        said = await self._playground.shop.empty(_product(await request.post()), _texts(request))
        return await self._after(request, "shop", said)

    async def refill(self, request: web.Request) -> web.Response:
        """POST /refill."""
        self._playground.shop.refill(_product(await request.post()))
        return await self._after(request, "shop", _texts(request)("shop.told.refill"))

    async def break_(self, request: web.Request) -> web.Response:
        """POST /break."""
        form = await request.post()
        kind, said = str(form.get("kind", "")), ""
        if kind not in set(Kind):
            raise web.HTTPBadRequest(text="There is no such fault.")
        try:
            self._playground.faults.begin(str(form.get("part", "")), Kind(kind))
        except ImpossibleError as error:
            said = _texts(request)(f"platform.impossible.{error.why}", name=error.name)
        return await self._after(request, "platform", said)

    async def undo(self, request: web.Request) -> web.Response:
        """POST /undo."""
        self._playground.faults.undo(str((await request.post()).get("part", "")))
        return await self._after(request, "platform", "")

    async def audit(self, request: web.Request) -> web.Response:
        """POST /audit."""
        self._playground.books.begin()
        return await self._after(request, "platform", "")

    async def _after(self, request: web.Request, part: str, said: str) -> web.Response:
        """Answer with the part that was acted on, or lead a browser without scripts to the page."""
        visitor = _visitor(request)
        self._playground.say_to(visitor, part, said)
        if "X-Part" not in request.headers:
            return web.Response(status=303, headers={"Location": f"/?customer={_customer(await request.post())}"})
        text = await self._shop(request, visitor) if part == "shop" else self._platform(request, visitor)
        return web.Response(text=text, content_type="text/html")

    async def _shop(self, request: web.Request, visitor: str) -> str:
        form = await request.post() if request.method == "POST" else request.query
        customer = _customer(form)
        seen = await self._playground.shop.look(customer)
        emptied = {one.product_id for one in seen.products if self._playground.shop.is_emptied(one.product_id)}
        return self._render("shop", request, visitor, customer=customer, seen=seen, emptied=emptied)

    def _platform(self, request: web.Request, visitor: str) -> str:
        now, playground = time.monotonic(), self._playground
        rows = []
        for name, state in playground.health.states.items():
            seconds = None if state.since is None else int(now - state.since)
            if state.word == RUNS and seconds is not None and seconds > RECENT_SECONDS:
                seconds = None
            rows.append((name, state.word, seconds, playground.faults.live(name)))
        books = playground.books
        age = None if books.last is None else int(now - books.last.at) // 5 * 5
        newest = playground.faults.recent[0].back if playground.faults.recent else None
        since_fault = newest is not None and books.last is not None and books.last.at > newest
        return self._render(
            "platform",
            request,
            visitor,
            rows=rows,
            books=books,
            age=age,
            since_fault=since_fault,
            faults=playground.faults.recent,
        )

    def _render(self, part: str, request: web.Request, visitor: str, **values: Any) -> str:
        values["t"] = _texts(request)
        values["form_token"] = self._playground.sessions.form_token(visitor)
        values["said"] = self._playground.said_to(visitor, part)

        def render(have: str) -> str:
            return self._templates.get_template(f"{part}.html").render(have=have, **values)

        return render(hashlib.sha256(render("").encode()).hexdigest()[:16])


def _part(request: web.Request, text: str) -> web.Response:
    have = request.query.get("have", "")
    if have and f'data-have="{have}"' in text:
        return web.Response(status=204)
    return web.Response(text=text, content_type="text/html")


def _visitor(request: web.Request) -> str:
    return request.cookies.get(COOKIE, "")


def _texts(request: web.Request) -> Texts:
    """Return the texts in a visitor's language: the chosen one, or else the browser's."""
    return texts(choose(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("Accept-Language", "")), TEXTS)


def _customer(form: Any) -> str:
    given = str(form.get("customer", CUSTOMERS[0]))
    return given if given in CUSTOMERS else CUSTOMERS[0]


def _product(form: Any) -> str:
    given = str(form.get("product", ""))
    if given not in PRODUCT_IDS:
        raise web.HTTPBadRequest(text="There is no such product.")
    return given
