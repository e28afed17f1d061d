"""Calls the relay's API for consumers: the only source whose events and times are believed unseen.

Its token and its files for TLS may be replaced at any time.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp

from .access import secret, tls_context
from .events import SHARDS_MIN, minute_of
from .runtime import Unavailable
from .settings import ConsumerSettings

BUCKET = timedelta(minutes=1)
FIRST = datetime(1970, 1, 1, tzinfo=UTC)  # before every event
LAST = datetime(9998, 12, 31, 23, 58, tzinfo=UTC)  # the relay knows no time after the year 9998

Item = Mapping[str, Any]  # a digest or an event of the relay, with the members that docs/events.md names


class BucketGone(Exception):  # noqa: N818 - expected: the relay keeps events for a limited time
    """The relay has removed the events of that time."""

    def __init__(self, oldest: datetime) -> None:
        super().__init__(f"the oldest minute that the relay has is {oldest}")
        self.oldest = oldest


class Relay:
    """The relay's API for consumers. Every call raises Unavailable if the relay does not answer."""

    def __init__(self, settings: ConsumerSettings, url: str | None = None) -> None:
        self._url = (url or settings.relay_url).rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=settings.relay_timeout_seconds)
        self._token_file = settings.relay_token_file
        self._tls = _Tls(settings)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Relay":
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def digests(
        self, start: datetime, end: datetime, shard: int | None = None
    ) -> tuple[list[Item], int, datetime | None]:
        """Return digests from `start` until before `end`, how many shards there are, and where to continue if there are
        more.

        Raises BucketGone.
        """
        body = await self._digests(start, end, shard)
        following = datetime.fromisoformat(body["next_from"]) if body["next_from"] else None
        return body["items"], body.get("shards", SHARDS_MIN), following

    async def keeps(self, timestamp: datetime) -> bool:
        """Return whether the relay still has every event of that time."""
        try:
            await self._minute(timestamp)
        except BucketGone:
            return False
        return True

    async def up_to(self) -> datetime | None:
        """Return the relay's watermark: every event up to that time is published. None before the first one."""
        up_to = (await self._minute(LAST))["up_to"]
        return None if up_to is None else datetime.fromisoformat(up_to)

    async def oldest(self) -> datetime | None:
        """Return the oldest minute that the relay still has; None if it has removed nothing."""
        try:
            await self._minute(FIRST)
        except BucketGone as gone:
            return gone.oldest
        return None

    async def events_of_order(self, order_id: UUID) -> list[Item]:
        """Return the relay's events of an order. Removed ones are left out."""
        return await self._events({"order_id": str(order_id)})

    async def events_of_bucket(self, bucket: datetime, shard: int) -> list[Item]:
        """Return the relay's events of a minute of a shard, without values. Raises BucketGone."""
        return await self._events({"bucket": _text(bucket), "shard": str(shard), "limit": "1000"})

    async def _minute(self, timestamp: datetime) -> Any:
        start = min(minute_of(timestamp), LAST)
        return await self._digests(start, start + BUCKET, 0)

    async def _digests(self, start: datetime, end: datetime, shard: int | None) -> Any:
        query = {"from": _text(start), "to": _text(end)} | ({} if shard is None else {"shard": str(shard)})
        return await self._get("/v1/digests", query)

    async def _events(self, query: dict[str, str]) -> list[Item]:
        items: list[Item] = []
        cursor: dict[str, str] = {}
        while True:
            body = await self._get("/v1/events", query | cursor)
            items += body["items"]
            if not body["next_cursor"]:
                return items
            cursor = {"cursor": body["next_cursor"]}

    async def _get(self, path: str, query: Mapping[str, str]) -> Any:
        assert self._session is not None
        options: Any = {"params": query, "headers": self._credentials(), "ssl": self._tls.context()}
        try:
            async with self._session.get(self._url + path, **options) as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"the relay did not answer: {type(error).__name__}") from error
        if response.status in (401, 403):
            raise Unavailable(f"the relay refuses our token, which needs the scope events:read: {response.status}")
        if response.status == 410:
            raise BucketGone(datetime.fromisoformat(body["oldest"]))
        if response.status != 200:
            raise Unavailable(f"the relay answers {response.status}")
        return body

    def _credentials(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {secret(Path(self._token_file))}"}
        except (OSError, ValueError) as error:
            raise Unavailable(f"the token for the relay can't be read: {error}") from error


Relays = Mapping[str, Relay]  # by topic


@asynccontextmanager
async def open_relays(settings: ConsumerSettings) -> AsyncIterator[Relays]:
    """Yield the relay of each topic."""
    async with AsyncExitStack() as stack:
        relays = {topic: Relay(settings, url) for topic, url in settings.sources.items()}
        for relay in relays.values():
            await stack.enter_async_context(relay)
        yield relays


class _Tls:
    """The context for https, which is made anew when its files were replaced."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._files = settings.relay_ca_file, settings.relay_certificate_file, settings.relay_key_file
        self._made_of: list[tuple[int, int, int]] = []
        self._context: ssl.SSLContext | bool = True  # aiohttp's word for the machine's authorities

    def context(self) -> ssl.SSLContext | bool:
        """Return the context for the files as they are now. Raises Unavailable if they can't be used."""
        try:
            found = [Path(file).stat() for file in self._files if file is not None]
            files = [(one.st_ino, one.st_mtime_ns, one.st_size) for one in found]
            if files != self._made_of:
                self._context, self._made_of = tls_context(*self._files), files
        except OSError as error:  # an SSLError is one
            raise Unavailable(f"the files for TLS with the relay can't be used: {error}") from error
        return self._context


def _text(timestamp: datetime) -> str:
    return timestamp.isoformat().replace("+00:00", "Z")
