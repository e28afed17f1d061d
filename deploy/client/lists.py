"""Lists: all items, read page by page."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from .transport import Call, Request, Transport

LISTED = frozenset({"limit", "cursor"})  # every list takes these


async def every(
    transport: Transport,
    call: Call,
    query: Mapping[str, str | None],
    page_size: int,
    path: Mapping[str, str] | None = None,
) -> AsyncIterator[Any]:
    """Yield the items of a list. Raises ClientError between two items if a page can't be read."""
    chosen = {name: str(value) for name, value in query.items() if value is not None} | {"limit": str(page_size)}
    while True:
        page = await transport.model(Request(call, path or {}, chosen), transport.deadline(None))
        for item in page.items:
            yield item
        if page.next_cursor is None:
            return
        chosen["cursor"] = page.next_cursor
