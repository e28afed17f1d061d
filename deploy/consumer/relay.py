"""Asks the relay: digests, which events a minute has, and events that are missing."""

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import aiohttp

from deploy.consumer.digests import Digest
from deploy.consumer.events import Event, event_of
from deploy.consumer.settings import ConsumerSettings
from shared.refusals import Unavailable


class BucketGone(Exception):  # noqa: N818 - expected: the relay keeps events for a while only
    """The relay has no events of that time any more."""

    def __init__(self, oldest: datetime) -> None:
        super().__init__(f"the oldest minute that the relay has is {oldest}")
        self.oldest = oldest


@dataclass(frozen=True, slots=True)
class Told:
    """What the relay tells of one event; its value only if it was published and asked for."""

    event_id: UUID
    order_id: UUID
    sequence: int
    status: str
    sha256: bytes | None
    attributes: Mapping[str, Any]

    def event(self) -> Event:
        """Return the event as the topic would have told it. Raises Undecodable."""
        return event_of(
            event_id=str(self.event_id),
            order_id=str(self.order_id),
            sequence=str(self.sequence),
            type_=self.attributes["type"],
            occurred_at=self.attributes["occurred_at"],
            payload=base64.b64decode(self.attributes["data_base64"]),
        )


@dataclass(frozen=True, slots=True)
class BucketDigest:
    """What the relay published of one minute of a shard."""

    bucket: datetime
    shard: int
    digest: Digest
    closed: bool


class Relay:
    """The relay's side for consumers. Every call raises Unavailable when there is no answer."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._url = settings.relay_url
        self._timeout = aiohttp.ClientTimeout(total=settings.relay_timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Relay":
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def digests(
        self, start: datetime, end: datetime, shard: int | None = None
    ) -> tuple[list[BucketDigest], datetime | None]:
        """Return the digests from `start` until before `end`, and where to go on if there are more.

        Raises BucketGone.
        """
        query = {"from": _text(start), "to": _text(end)} | ({} if shard is None else {"shard": str(shard)})
        body = await self._get("/v1/digests", query)
        items = [
            BucketDigest(
                datetime.fromisoformat(item["bucket"]),
                item["shard"],
                Digest(item["count"], item["hash"]),
                item["closed"],
            )
            for item in body["items"]
        ]
        return items, datetime.fromisoformat(body["next_from"]) if body["next_from"] else None

    async def events_of_order(self, order_id: UUID, first: int, last: int) -> list[Told]:
        """Return what the relay has of these sequences of an order."""
        query = {"order_id": str(order_id), "from_sequence": str(first), "to_sequence": str(last)}
        return [told async for told in self._events(query)]

    async def events_of_bucket(self, bucket: datetime, shard: int) -> list[Told]:
        """Return what the relay has of a minute of a shard, without values. Raises BucketGone."""
        return [told async for told in self._events({"bucket": _text(bucket), "shard": str(shard), "limit": "1000"})]

    async def _events(self, query: dict[str, str]) -> AsyncIterator[Told]:
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            body = await self._get("/v1/events", query | cursor)
            for item in body["items"]:
                yield Told(
                    UUID(item["event_id"]),
                    UUID(item["order_id"]),
                    item["sequence"],
                    item["status"],
                    bytes.fromhex(item["sha256"]) if item["sha256"] else None,
                    item,
                )
            cursor = {"cursor": body["next_cursor"]} if body["next_cursor"] else None

    async def _get(self, path: str, query: Mapping[str, str]) -> Any:
        assert self._session is not None
        try:
            async with self._session.get(self._url + path, params=query) as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"The relay did not answer: {type(error).__name__}") from error
        if response.status == 410:
            raise BucketGone(datetime.fromisoformat(body["oldest"]))
        if response.status != 200:
            raise Unavailable(f"The relay answers {response.status}")
        return body


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
