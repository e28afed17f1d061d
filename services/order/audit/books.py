"""Reads the participants' books over their APIs."""

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ValidationError

from services.order.audit.rules import Holds
from shared.contracts.books import BOOKS_PATH, BOOKS_SECONDS, HOLDS_PATH, Books, HoldsPage
from shared.identity.secrets import Credential
from shared.refusals import Unavailable
from shared.tls import ClientTls

LAST = UUID(int=2**128 - 1)
M = TypeVar("M", bound=BaseModel)


class BookReader:
    """Reads what participants hold, by page or by order, and the results of their own checks.

    Every call names a place: a participant, or one of several product shards. `slots`: the parameters that ask for the
    orders of this cell only. A participant may ignore them, for example one of an earlier version.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        credentials: Mapping[str, Credential] | None = None,
        tls: ClientTls = lambda: True,
        slots: Mapping[str, str] = {},
    ) -> None:
        self._urls = urls
        self._credentials = credentials or {}
        self._tls = tls
        self._slots = slots
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "BookReader":
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=BOOKS_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def holds_after(self, place: str, after: UUID, limit: int) -> tuple[dict[UUID, Holds], UUID]:
        """Return the holds of up to `limit` orders after an id, and the last id that they cover. Raises Unavailable.

        There may be holds of other cells among them.
        """
        query = {"after": str(after), "limit": str(limit), **self._slots}
        page = await self._get(place, HOLDS_PATH, query, HoldsPage)
        held: dict[UUID, Holds] = {item.order_id: item.holds for item in page.items}
        return held, page.until or (max(held) if len(held) == limit else LAST)

    async def holds_of(self, place: str, order_id: UUID) -> Holds:
        """Return the current holds of one order. Raises Unavailable."""
        page = await self._get(place, HOLDS_PATH, {"order_id": str(order_id)}, HoldsPage)
        return page.items[0].holds if page.items else {}

    async def own_checks(self, place: str) -> Books:
        """Return the results of the participant's checks of its own books. Raises Unavailable."""
        return await self._get(place, BOOKS_PATH, {}, Books)

    async def _get(self, place: str, path: str, query: Mapping[str, Any], model: type[M]) -> M:
        assert self._http is not None
        try:
            headers = self._credentials.get(place, dict)()
            url = self._urls[place] + path
            async with self._http.get(url, params=query, headers=headers, ssl=self._tls()) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"The {place} service did not answer.") from error
        if response.status != 200:
            raise Unavailable(f"The {place} service answered {response.status}.")
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            raise Unavailable(f"The {place} service's books could not be read.") from error
