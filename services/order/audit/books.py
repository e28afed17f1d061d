"""Reads the participants' books over their API."""

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ValidationError

from services.order.audit.rules import Holds
from services.order.saga import Participant
from shared.contracts.books import BOOKS_PATH, BOOKS_SECONDS, HOLDS_PATH, Books, HoldsPage
from shared.refusals import Unavailable

M = TypeVar("M", bound=BaseModel)


class BookReader:
    """What participants hold, page by page, order by order, and their own checks."""

    def __init__(self, urls: Mapping[Participant, str]) -> None:
        self._urls = urls
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "BookReader":
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=BOOKS_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def holds_after(self, participant: Participant, after: UUID, limit: int) -> dict[UUID, Holds]:
        """Return what is held for up to `limit` orders after an id, in order of id. Raises Unavailable."""
        query = {"after": str(after), "limit": str(limit)}
        page = await self._get(participant, HOLDS_PATH, query, HoldsPage)
        return {item.order_id: item.holds for item in page.items}

    async def holds_of(self, participant: Participant, order_id: UUID) -> Holds:
        """Return what is held for one order now. Raises Unavailable."""
        page = await self._get(participant, HOLDS_PATH, {"order_id": str(order_id)}, HoldsPage)
        return page.items[0].holds if page.items else {}

    async def own_checks(self, participant: Participant) -> Books:
        """Return the participant's checks of its own books. Raises Unavailable."""
        return await self._get(participant, BOOKS_PATH, {}, Books)

    async def _get(self, participant: Participant, path: str, query: Mapping[str, Any], model: type[M]) -> M:
        assert self._http is not None
        try:
            async with self._http.get(self._urls[participant] + path, params=query) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"The {participant} service did not answer: {type(error).__name__}") from error
        if response.status != 200:
            raise Unavailable(f"The {participant} service answered {response.status}.")
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            raise Unavailable(f"The {participant} service's books could not be read.") from error
