"""Acts of operators: always tried first, then confirmed with a reason, then done and recorded by the service.

One act goes over two pages: the form that asks why, and the page that says what would be done and asks for a
confirmation. Several at once go from the list to that page.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from aiohttp import web

from deploy.client.problems import ClientError, OutcomeUnknown, Problem
from deploy.client.transport import Call
from deploy.console.routes import ID, Route
from deploy.console.visit import YEAR_SECONDS, Visit
from deploy.orderctl import calls
from shared.contracts.scopes import Scope

AT_ONCE = 8  # calls at a time, far below what the services accept
BULK_MAX = 200  # as many as a person can look through before confirming
REASON_MAX = 200  # characters, as the services have it
REALLY = "do"


@dataclass(frozen=True, slots=True)
class Tried:
    """What a service said about an act on one thing: what it concerns, or why it is refused."""

    id_: str
    concerned: Sequence[str] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of a page.

    `page`: its name, in paths and texts. `on_one`: the call of each act, by its name. `concerned`: what an answer of
    these calls is about. `dangerous`: the acts that can't be taken back. `matching`: the ids that fit the filter in the
    form of an act on all, for the acts of `on_all`. `shows_one`: there is a page for each thing.
    """

    page: str
    on_one: Mapping[str, Call]
    concerned: Callable[[calls.Raw], Sequence[str]]
    dangerous: Sequence[str]
    matching: Callable[[Visit], Awaitable[Sequence[str]]]
    on_all: Sequence[str]
    shows_one: bool

    @property
    def routes(self) -> list[Route]:
        """Return the routes of the acts."""
        found = [
            Route("POST", f"/{self.page}/all/{name}", partial(self._act_on_all, name), Scope.OPS)
            for name in self.on_all
        ]
        for name in self.on_one:
            path = f"/{self.page}/{{id:{ID}}}/{name}"
            found.append(Route("GET", path, partial(self._ask, name), Scope.OPS))
            found.append(Route("POST", path, partial(self._act_on_one, name), Scope.OPS))
        return found

    async def _ask(self, name: str, visit: Visit) -> web.Response:
        """Show the form that asks why."""
        return self._form(visit, name)

    async def _act_on_one(self, name: str, visit: Visit) -> web.Response:
        if not is_complete(visit):
            return self._form(visit, name, status=400)
        id_ = visit.request.match_info["id"]
        if visit.form.get("step") != REALLY:
            return self._confirmation(visit, name, [await self._on(visit, name, id_, dry_run=True)])
        await self._call(visit, name, id_, dry_run=False)
        place = f"/{self.page}/{id_}" if self.shows_one else f"/{self.page}"
        return remembered(visit, visit.redirect(f"{place}?done={name}"))

    async def _act_on_all(self, name: str, visit: Visit) -> web.Response:
        if visit.form.get("step") == REALLY and is_complete(visit):
            ids = visit.form.get("ids", "").split()[:BULK_MAX]
            done = await self._on_each(visit, name, ids, dry_run=False)
            page = visit.page("done.html", page=self.page, name=name, tried=done, shows_one=self.shows_one)
            return remembered(visit, page)
        matching = (await self.matching(visit))[:BULK_MAX]
        if not matching or not is_complete(visit):
            return self._form(visit, name, status=200 if "reason" not in visit.form else 400, several=len(matching))
        return self._confirmation(visit, name, await self._on_each(visit, name, matching, dry_run=True))

    def _form(self, visit: Visit, name: str, status: int = 200, several: int | None = None) -> web.Response:
        return visit.page(
            "act.html",
            status,
            page=self.page,
            name=name,
            id_=visit.request.match_info.get("id"),
            shows_one=self.shows_one,
            several=several,
            kept={key: value for key, value in visit.form.items() if key in ("state", "older")},
            missing=status == 400,
            is_dangerous=name in self.dangerous,
            reason_max=REASON_MAX,
        )

    def _confirmation(self, visit: Visit, name: str, tried: Sequence[Tried]) -> web.Response:
        page = visit.page(
            "confirm.html",
            page=self.page,
            name=name,
            tried=tried,
            possible=[one for one in tried if not one.refused],
            is_dangerous=name in self.dangerous,
        )
        return remembered(visit, page)

    async def _on_each(self, visit: Visit, name: str, ids: Sequence[str], *, dry_run: bool) -> list[Tried]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(id_: str) -> Tried:
            async with limit:
                return await self._on(visit, name, id_, dry_run=dry_run)

        return await asyncio.gather(*map(one, ids))

    async def _on(self, visit: Visit, name: str, id_: str, *, dry_run: bool) -> Tried:
        """Return what a service says. In a dry run, raises ClientError for what would befall all others as well."""
        try:
            return Tried(id_, self.concerned(await self._call(visit, name, id_, dry_run=dry_run)))
        except Problem as error:
            if dry_run and error.status in (401, 403):
                raise
            return Tried(id_, refused=error.detail or error.slug)
        except OutcomeUnknown:
            return Tried(id_, refused=visit.texts("act.unknown"))
        except ClientError as error:
            if dry_run:
                raise
            return Tried(id_, refused=str(error))  # others may be done: their result must be shown

    async def _call(self, visit: Visit, name: str, id_: str, *, dry_run: bool) -> calls.Raw:
        body = calls.Act(actor=actor(visit), reason=visit.form["reason"], dry_run=dry_run)
        return await visit.platform().admin(self.on_one[name], body=body, id_=id_)


def actor(visit: Visit) -> str | None:
    """Return who acts, where the token does not say it."""
    return visit.form.get("by") if visit.parts.is_open else None


def is_complete(visit: Visit) -> bool:
    """Return whether a form says why, and who, where the token does not say it."""
    return bool(visit.form.get("reason")) and (not visit.parts.is_open or bool(visit.form.get("by")))


def remembered(visit: Visit, response: web.Response) -> web.Response:
    """Return the response; it keeps the name of who acted, so that nobody has to type it again."""
    by = visit.form.get("by")
    if visit.parts.is_open and by:
        visit.set_cookie(response, "by", quote(by), YEAR_SECONDS)
    return response
