"""Routes as data: the router, the OpenAPI document and the tests read the same table."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

from shared.refusals import Refusal

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One call: where it is, what it takes, what it answers and how it refuses.

    In `path`, `{name}` stands for an id and `{name:uuid}` for a UUID.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    replies: Mapping[int, type[BaseModel] | None]
    refusals: Sequence[type[Refusal]] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    tags: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)  # request header → what it is for
    # Raises Unavailable while there is no capacity for a further request; takes the number of pending ones. Only for a
    # path without parameters. The server calls it for requests that arrive in one piece, before anything is begun for
    # them; the handler calls it for the others.
    check_capacity: Callable[[int], None] | None = None
    # For a call that may take longer than the service's deadline for requests, on a path without parameters.
    deadline_seconds: float | None = None
