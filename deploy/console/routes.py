"""What a page is: its place in the navigation, and its routes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from shared.contracts.scopes import Scope

ID = "[0-9a-fA-F-]{36}"  # in a path: a UUID

Handle = Callable[[Any], Awaitable[web.StreamResponse]]  # its argument is the visit


@dataclass(frozen=True, slots=True)
class Route:
    """A call. `scope`: what the operator's token has to allow; None for everybody, also without a token."""

    method: Literal["GET", "POST"]
    path: str
    handle: Handle
    scope: Scope | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the navigation; `nav.<name>` is its text. `scope`: who sees it there."""

    name: str
    path: str
    scope: Scope
    routes: Sequence[Route]
