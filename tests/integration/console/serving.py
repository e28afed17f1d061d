"""Serves the console in this process, and visits it as a browser does."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from html import unescape
from typing import Any

import aiohttp

from deploy.console.__main__ import PAGES
from deploy.console.application import application, said
from deploy.console.figures.live import BY_SERVICE
from deploy.console.figures.replicas import Replicas
from deploy.console.figures.sampler import Sampler
from deploy.console.figures.scraping import scrape
from deploy.console.jobs import Jobs
from deploy.console.listener import listening
from deploy.console.rendering import Renderer
from deploy.console.sessions import Sessions
from deploy.console.settings import ConsoleSettings
from deploy.console.streams import Streams
from deploy.console.visit import Parts
from shared.identity.authenticator import Authenticator, OpenAuthenticator
from tests.infrastructure.waiting import free_port

NOWHERE = "http://127.0.0.1:1"
FORM_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@dataclass(frozen=True, slots=True)
class Answer:
    """What the console has answered."""

    status: int
    text: str
    headers: Mapping[str, str]

    def has(self, *texts: str) -> bool:
        """Return whether all of these are in the page."""
        return all(text in self.text for text in texts)

    def hidden(self) -> dict[str, str]:
        """Return the hidden fields of the last form in the page."""
        form = self.text.rpartition("<form")[2]
        return {name: unescape(value) for name, value in FIELD.findall(form)}


@dataclass(slots=True)
class Visitor:
    """A browser that has cookies, and says where a form comes from."""

    url: str
    session: aiohttp.ClientSession

    @property
    def jar(self) -> dict[str, str]:
        """Return the cookies by name."""
        return {cookie.key: cookie.value for cookie in self.session.cookie_jar}

    async def get(self, path: str, **headers: str) -> Answer:
        """Load a page; redirects are not followed."""
        return await self._send("GET", path, None, headers)

    async def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        """Send a form as it is."""
        return await self._send("POST", path, dict(form or {}), {"Origin": self.url, **headers})

    async def submit(self, page: str, path: str, **fields: str) -> Answer:
        """Load a page, and send a form of it with these fields."""
        found = FORM_TOKEN.search((await self.get(page)).text)
        assert found is not None, page
        return await self.post(path, {"form_token": found[1], **fields})

    async def _send(self, method: str, path: str, form: Any, headers: Mapping[str, str]) -> Answer:
        async with self.session.request(
            method, f"{self.url}{path}", data=form, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, await response.text(), response.headers.copy())


@dataclass(slots=True)
class Browser(Visitor):
    """A visitor of a console in this process."""

    parts: Parts


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    """Visit a console at a URL."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Visitor(url, session)


@asynccontextmanager
async def console(authenticator: Authenticator | None = None, **settings: Any) -> AsyncIterator[Browser]:
    """Serve the console; its sampler does nothing until a test asks it to."""
    port = free_port()
    places = dict.fromkeys(("order_url", "relay_url", "order_admin_url", "relay_admin_url"), NOWHERE)
    replicas = {f"{service}_replicas": NOWHERE for service in BY_SERVICE}
    known = ConsoleSettings(
        **{"auth_mode": "open", "port": port, "deadline_seconds": 2, **places, **replicas, **settings}
    )

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        sampler = Sampler(Replicas(known.replicas), partial(scrape, http))
        streams = Streams(known.streams_max)
        callers = authenticator or OpenAuthenticator()
        jobs = Jobs(said)
        parts = Parts(known, Sessions(), callers, sampler, streams, jobs, http, Renderer(PAGES))
        async with listening(application(parts, PAGES), known):
            try:
                async with visiting(f"http://127.0.0.1:{port}") as visitor:
                    yield Browser(visitor.url, visitor.session, parts)
            finally:
                sampler.close()
                await jobs.close()
