"""One request of a visitor: who it is, in which language, what the services tell, and the page that answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web

from deploy.client.retries import Policy
from deploy.console import formats, texts
from deploy.console.figures.sampler import Sampler
from deploy.console.guard import comes_from_elsewhere
from deploy.console.jobs import Jobs
from deploy.console.rendering import Renderer
from deploy.console.sessions import Session, Sessions, new_id
from deploy.console.settings import ConsoleSettings
from deploy.console.streams import Streams
from deploy.orderctl.places import Places
from deploy.orderctl.platform import Platform
from shared.contracts.scopes import Scope
from shared.identity.authenticator import Authenticator

THEMES = ("auto", "light", "dark")
YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Parts:
    """What all requests share."""

    settings: ConsoleSettings
    sessions: Sessions
    authenticator: Authenticator
    sampler: Sampler
    streams: Streams
    jobs: Jobs
    http: aiohttp.ClientSession
    renderer: Renderer

    @property
    def is_open(self) -> bool:
        """Return whether nobody is asked who they are."""
        return self.authenticator.mode == "open"

    def cookie(self, name: str) -> str:
        """Return the name of a cookie; with TLS, one that no other host or path can set."""
        return f"__Host-console-{name}" if self.settings.is_secure else f"console-{name}"

    def told(self, request: web.Request, name: str) -> str | None:
        """Return what a browser's cookie says. All that this process sets are ASCII, so another one is none."""
        value = request.cookies.get(self.cookie(name))
        return value if value is not None and value.isascii() else None


@dataclass(slots=True)
class Visit:
    """A request. `visitor`: the id in the browser's cookie, new if there was none. `form`: what was sent, checked."""

    request: web.Request
    parts: Parts
    visitor: str
    session: Session | None
    texts: texts.Texts
    theme: str
    form: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, request: web.Request, parts: Parts) -> "Visit":
        """Read who visits."""

        id_, theme = parts.told(request, "id"), parts.told(request, "theme")
        language = texts.choose(parts.told(request, "language"), request.headers.get("Accept-Language", ""))
        return cls(
            request,
            parts,
            id_ or new_id(),
            parts.sessions.find(id_),
            texts.texts(language),
            theme if theme in THEMES else "auto",
        )

    @property
    def path(self) -> str:
        """Return the path and query of the request."""
        return self.request.path_qs

    @property
    def shown_at(self) -> str:
        """Return where to load the page again: of an answer to a form, which is not sent twice, its section."""
        return self.path if self.request.method == "GET" else "/".join(self.request.path.split("/")[:2])

    @property
    def signed_in(self) -> bool:
        """Return whether it is known who visits, or nobody is asked."""
        return self.parts.is_open or self.session is not None

    @property
    def subject(self) -> str | None:
        """Return the operator's name in the token."""
        return None if self.session is None else self.session.caller.subject

    @property
    def by(self) -> str | None:
        """Return who acts, as last given, where nobody is asked for a token."""
        by = self.parts.told(self.request, "by")
        return None if by is None else unquote(by)

    @property
    def form_token(self) -> str:
        """Return the token for the forms of the page."""
        return self.parts.sessions.form_token(self.visitor)

    def is_allowed(self) -> bool:
        """Return whether the visitor is still signed in, or nobody is asked."""
        return self.parts.is_open or self.parts.sessions.find(self.visitor) is not None

    def may(self, scope: Scope) -> bool:
        """Return whether the operator's token allows what needs `scope`. The services check it again."""
        return self.parts.is_open or (self.session is not None and self.session.has(scope))

    def platform(self, policy: Policy | None = None) -> Platform:
        """Return the services' APIs, called with the operator's own token; by default as long as a page may wait."""
        settings = self.parts.settings
        urls = {
            "order": settings.order_url,
            "relay": settings.relay_url,
            "order-admin": settings.order_admin_url,
            "relay-admin": settings.relay_admin_url,
        }
        token = None if self.session is None else self.session.token
        policy = policy or Policy(deadline_seconds=settings.deadline_seconds)
        return Platform(self.parts.http, Places(urls, token), policy)

    def page(self, template: str, status: int = 200, **values: Any) -> web.Response:
        """Return a page."""
        text = self.parts.renderer.render(
            template,
            visit=self,
            status=status,
            t=self.texts,
            f=formats.Formats(self.texts),
            **values,
        )
        response = web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
        return response if comes_from_elsewhere(self.request.headers) else self.remembered(response)

    def redirect(self, path: str) -> web.Response:
        """Return an answer that leads to another page of the console."""
        return self.remembered(web.Response(status=303, headers={"Location": path}))

    def to_sign_in(self) -> web.Response:
        """Return an answer that leads to the page for signing in, and from there back here."""
        if self.request.headers.get("HX-Request"):
            # A part of a page that is shown: the browser loads all of it, and comes here again.
            return web.Response(headers={"HX-Refresh": "true"})
        back = self.path if self.request.method == "GET" else "/"
        return self.redirect(f"/sign-in?next={quote(back, safe='/')}")

    def remembered(self, response: web.Response) -> web.Response:
        """Return the response with the visitor's cookie, if the browser does not have it."""
        if self.parts.told(self.request, "id") != self.visitor:
            self.set_cookie(response, "id", self.visitor)
        return response

    def set_cookie(self, response: web.Response, name: str, value: str, max_age: int | None = None) -> None:
        """Set a cookie that only the console's own pages send, and that no script reads."""
        response.set_cookie(
            self.parts.cookie(name),
            value,
            max_age=max_age,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self.parts.settings.is_secure,
        )


def inner_path(text: str) -> str:
    """Return a path to go on to: the given one if it is of the console, else the first page."""
    inner = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isascii() and text.isprintable()
    return text if inner else "/"
