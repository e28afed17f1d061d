"""Keeps the issuer's public keys: reads them from a URL or a file, and again when they change."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import structlog
from joserfc.jwk import Key
from prometheus_client import Gauge

from shared.identity.tokens import read_keys
from shared.refusals import Unavailable
from shared.tls import ClientTls

log = structlog.get_logger()

Read = Callable[[], Awaitable[bytes]]
# Requests with unknown keys are for anybody to send, and must not become requests to the issuer.
LOOK_SECONDS = 30.0
# Without usable keys no caller is served, so the next read follows sooner.
LOOK_AGAIN_SECONDS = 1.0
# How long a caller waits for a read after one that failed: the issuer may hang, and the caller can try again.
AFTER_FAILURE_SECONDS = 0.5
REFRESH_SECONDS = 300.0
# While the issuer is away its last keys stay valid. A key that it withdrew meanwhile would be accepted until then.
STALE_SECONDS = 3600.0
FETCH_SECONDS = 5.0
DOCUMENT_MAX = 262_144  # bytes
AGE = Gauge("issuer_keys_age_seconds", "Time since the issuer's keys were last read")


class NoKeys(Unavailable):
    """Tokens can't be checked: the issuer's keys can't be read."""


class IssuerKeys:
    """The issuer's current keys by their ids.

    `read` returns the JWK set as bytes, and raises whatever it likes. One read runs at a time, and two begin at least
    `LOOK_SECONDS` apart, or `LOOK_AGAIN_SECONDS` while there are no usable keys. `clock` returns seconds, from any
    point.
    """

    def __init__(self, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_change: Callable[[], None] = lambda: None  # called when keys were added, withdrawn or replaced
        self._read = read
        self._clock = clock
        self._keys: Mapping[str, Key] = {}
        self._document = b""
        self._looked_at = self._read_at = self._logged_at = float("-inf")
        self._look: asyncio.Task[None] | None = None
        self._look_failed = False
        self._is_open = False
        AGE.set_function(self._reported_age)

    def usable(self) -> bool:
        """Return whether the keys were read recently enough. Begin to read them again if they are old."""
        age = self._age()
        if age > REFRESH_SECONDS:
            self._begin_look()
        return age <= STALE_SECONDS

    async def current(self, kid: str | None = None) -> Mapping[str, Key]:
        """Return the keys, with `kid` among them if the issuer has it by now.

        Raise NoKeys if they were never read, or last read too long ago, or if `kid` may be new and can't be looked for.
        """
        # A caller who can be answered with the keys of now does not wait.
        if (not self.usable() or self._lacks(kid)) and (look := self._begin_look()) is not None:
            await asyncio.wait([look], timeout=AFTER_FAILURE_SECONDS if self._look_failed else None)
        if not self.usable() or (self._look_failed and self._lacks(kid)):
            raise NoKeys
        return self._keys

    async def first(self) -> None:
        """Return once keys have been read. Raise NoKeys if they never could be."""
        if self._age() == float("inf"):
            await self.current()

    def _lacks(self, kid: str | None) -> bool:
        return kid is not None and kid not in self._keys

    def _age(self) -> float:
        return self._clock() - self._read_at

    def _reported_age(self) -> float:
        # Without callers nobody else would look, and the age would say that the issuer is away.
        if self._is_open:
            self.usable()
        return self._age()

    async def __aenter__(self) -> "IssuerKeys":
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    def _begin_look(self) -> asyncio.Task[None] | None:
        """Return the read under way, a new one, or None if it is too early for another."""
        if self._look is not None and not self._look.done():
            return self._look
        pause = LOOK_SECONDS if self._age() <= STALE_SECONDS else LOOK_AGAIN_SECONDS
        if self._clock() - self._looked_at < pause:
            return None
        self._looked_at = self._clock()
        self._look = asyncio.create_task(self._look_once())
        return self._look

    async def _look_once(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                document = await self._read()
            if document != self._document:
                keys = read_keys(document)
                if not keys:
                    raise ValueError("has no usable key")
                self._keys, self._document = keys, document
                log.info("issuer_keys.changed", keys=sorted(keys))
                self.on_change()
        except Exception as error:  # noqa: BLE001 - whatever the issuer does, its last keys stay until they are stale
            if not self._look_failed or self._clock() - self._logged_at >= LOOK_SECONDS:
                self._logged_at = self._clock()
                log.warning("issuer_keys.unreadable", error=f"{type(error).__name__}: {error}")
            self._look_failed = True
        else:
            self._look_failed = False
            self._read_at = self._clock()


def from_url(session: aiohttp.ClientSession, url: str, tls: ClientTls = lambda: True) -> Read:
    """Return what reads the JWK set at `url`. `tls` gives the context for an https URL."""
    headers = {"Accept": "application/json"}

    async def read() -> bytes:
        async with session.get(url, allow_redirects=False, headers=headers, ssl=tls()) as answer:
            if answer.status != 200:
                raise ValueError(f"the issuer answered {answer.status}")
            document = await answer.content.read(DOCUMENT_MAX + 1)
            while len(document) <= DOCUMENT_MAX and (more := await answer.content.read(DOCUMENT_MAX)):
                document += more
            if len(document) > DOCUMENT_MAX:
                raise ValueError(f"is larger than {DOCUMENT_MAX} bytes")
            return document

    return read


def from_file(path: Path) -> Read:
    """Return what reads the JWK set in a file, which may be replaced at any time."""

    async def read() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return read
