"""Routes as data: the router, the OpenAPI document and the tests read the same table."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from shared.contracts.scopes import Scope
from shared.identity.callers import Policy
from shared.refusals import Refusal

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One call: its path, callers, input, answers and refusals.

    In `path`, `{name}` stands for an id and `{name:uuid}` for a UUID. `policy` says who may call it:
    everybody, everybody with a token, another service, or callers with a scope.
    """

    method: str
    path: str
    policy: Policy | Scope
    handler: Handler
    summary: str
    replies: Mapping[int, type[BaseModel] | None]
    refusals: Sequence[type[Refusal]] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    tags: Sequence[str] = ()
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # request header → `description`, `schema`
    # 201 and 202 have `Location`, the path of what was created or is being changed.
    locates: bool = False
    # For people, in HTML: the OpenAPI document does not have it.
    is_page: bool = False
    # Raises Unavailable while there is no capacity for a further request; takes the number of pending ones. Only for a
    # path without parameters. The server calls it for requests that arrive in one piece, before anything is begun for
    # them; the handler calls it for the others.
    check_capacity: Callable[[int], None] | None = None
    # For a call that may take longer than the service's deadline for requests, on a path without parameters.
    deadline_seconds: float | None = None


def router_path(path: str, fixed: Iterable[str]) -> str:
    """Return a route's path for the library's router, whose own parameters match no braces.

    A last parameter does not stand for what is a path of its own, one of `fixed`: with other methods that one is no id.
    """
    pattern = re.sub(r"\{(\w+)(:uuid)?\}", r"{\1:[^/]+}", path)
    folder, _, last = path.rpartition("/")
    names = [re.escape(other.removeprefix(f"{folder}/")) for other in fixed if other.rpartition("/")[0] == folder]
    if last.startswith("{") and names:
        pattern = pattern.removesuffix("[^/]+}") + f"(?!(?:{'|'.join(sorted(names))})$)[^/]+}}"
    return pattern
