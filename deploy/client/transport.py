"""One call: its request, its repetitions, and its answer as a model or an exception."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4
from zlib import crc32

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from pydantic import ValidationError
from yarl import URL

from .models import Body, Reply
from .problems import (
    ClientError,
    NoFinalAnswer,
    OutcomeUnknown,
    Problem,
    Unauthenticated,
    UnexpectedAnswer,
    problem,
)
from .retries import BUG, BUGS_MAX, Deadline, Policy, is_temporary, may_have_acted, seconds_of

# What says nothing about an operation: a token that is not valid any more, and an answer of something else.
UNDECIDED = (Unauthenticated, UnexpectedAnswer)
SLOTS = 4096  # a constant of the platform
Token = Callable[[], str | Awaitable[str]]


class Service(StrEnum):
    """The services with an API for clients."""

    ORDER = "order"
    PRODUCT = "product"
    COUPON = "coupon"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the contract. tests/unit/client compares each with the service's OpenAPI document.

    `keyed`: it takes an idempotency key. `repeatable`: it may be repeated although it may have had its effect.
    """

    service: str
    method: Literal["GET", "POST", "PATCH"]
    path: str
    replies: Mapping[int, type[Reply]]
    body: type[Body] | None = None
    query: frozenset[str] = frozenset()
    keyed: bool = False
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """A call with its data."""

    call: Call
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    key: str | None = None

    @property
    def slot(self) -> int | None:
        """Return the slot of the user or product that the body names.

        Where the platform has several cells or product shards, a router reads it, because it reads no body.
        """
        named: str | None = getattr(self.body, "user_id", None) or getattr(self.body, "product_id", None)
        return None if named is None else crc32(named.encode()) % SLOTS


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer."""

    status: int
    model: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that another one may follow. `acted`: it may have had its effect."""

    error: Exception
    acted: bool
    retry_after: float | None = None
    is_bug: bool = False


class AfterUncertainty(Exception):  # noqa: N818 - internal: carries a refusal to the caller that can interpret it
    """A refusal after an attempt that may have had its effect."""

    def __init__(self, refusal: Problem | UnexpectedAnswer, key: str | None) -> None:
        super().__init__(str(refusal))
        self.refusal, self.key = refusal, key

    def for_callers(self) -> ClientError:
        """Return what to raise: a refusal that says nothing about the earlier attempt leaves the outcome open."""
        if isinstance(self.refusal, UNDECIDED):
            return NoFinalAnswer(self.refusal, self.key)
        return self.refusal


def new_key() -> str:
    """Return an idempotency key that nobody else has."""
    return str(uuid4())


def segment(id_: str) -> str:
    """Return an id as a part of a path: percent-encoded as docs/api.md asks for."""
    return quote(id_, safe="").replace(".", "%2E")


class _SentBody(aiohttp.BytesPayload):
    """A body. `begun`: it is being sent, so the request may have its effect from now on."""

    begun = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.begun = True
        await super().write_with_length(writer, content_length)


class Transport:
    """Sends requests, each as often as needed and allowed."""

    def __init__(
        self, session: aiohttp.ClientSession, urls: Mapping[str, str], token: Token | None, policy: Policy
    ) -> None:
        self._session, self._token, self.policy = session, token, policy
        self._urls = {service: url.rstrip("/") for service, url in urls.items()}

    def deadline(self, seconds: float | None) -> Deadline:
        """Return a deadline that begins now; None for the policy's."""
        return Deadline(self.policy.deadline_seconds if seconds is None else seconds)

    async def model(self, request: Request, deadline: Deadline) -> Any:
        """Return the model of the final answer. Raises ClientError."""
        return (await self.final(request, deadline)).model

    async def final(self, request: Request, deadline: Deadline) -> Answer:
        """Return the final answer. Raises ClientError."""
        try:
            return await self.send(request, deadline)
        except AfterUncertainty as error:
            raise error.for_callers() from None

    async def send(self, request: Request, deadline: Deadline) -> Answer:
        """Return the final answer. Raises ClientError, or AfterUncertainty for a refusal if that applies."""
        failures: list[Failure] = []
        while deadline.left():
            try:
                tried = await self._try(request, deadline)
            except (Problem, UnexpectedAnswer) as error:
                if any(failure.acted for failure in failures):
                    raise AfterUncertainty(error, request.key) from error
                raise
            if isinstance(tried, Answer):
                return tried
            failures.append(tried)
            if tried.acted and not request.call.repeatable:
                raise OutcomeUnknown(tried.error) from tried.error
            if sum(failure.is_bug for failure in failures) == BUGS_MAX:
                break
            if deadline.passed() >= self.policy.repeat_seconds:
                break
            await self.pause(len(failures) - 1, deadline, request.key, tried)
        last = failures[-1].error if failures else None
        raise NoFinalAnswer(last, request.key) from last

    async def pause(
        self, attempt: int, deadline: Deadline, key: str | None = None, failure: Failure | None = None
    ) -> None:
        """Wait before the next attempt. Raises NoFinalAnswer at once if the deadline comes first."""
        seconds = self.policy.pause(attempt, failure.retry_after if failure else None)
        if seconds >= deadline.left():
            last = failure.error if failure else None
            raise NoFinalAnswer(last, key) from last
        await asyncio.sleep(seconds)

    async def _try(self, request: Request, deadline: Deadline) -> Answer | Failure:
        """Return a final answer, or what may be different next time. Raises Problem and UnexpectedAnswer."""
        body, asked = None, False
        try:
            async with asyncio.timeout(min(self.policy.attempt_seconds, deadline.left())):
                headers = await self._headers(request)
                if request.body is not None:
                    body = _SentBody(request.body.model_dump_json(exclude_none=True).encode())
                asked = True
                return await self._attempt(request, headers, body)
        except (Problem, UnexpectedAnswer) as error:
            if not is_temporary(error):
                raise
            return Failure(error, may_have_acted(error), error.retry_after, is_bug=error.status == BUG)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL):
            raise  # a wrong setting, which no repetition corrects
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure(error, acted=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            # A connection that was still being opened carried nothing. Without a body, nobody tells when it was open.
            return Failure(error, acted=asked if body is None else body.begun)

    async def _attempt(self, request: Request, headers: Mapping[str, str], body: "_SentBody | None") -> Answer:
        call = request.call
        path = call.path.format(**{name: segment(value) for name, value in request.path.items()})
        async with self._session.request(
            call.method,
            URL(self._urls[call.service] + path, encoded=True).update_query(request.query),
            headers=headers,
            data=body,
            allow_redirects=False,  # a token is for these services only
            raise_for_status=False,  # also if the caller's session says otherwise
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.policy.connect_seconds
            ),  # `send` limits the rest
        ) as response:
            return Answer(response.status, _read(call, response, await response.read()))

    async def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        if request.slot is not None:
            headers["X-Slot"] = str(request.slot)
        if self._token is not None:
            token = self._token()
            headers["Authorization"] = f"Bearer {await token if inspect.isawaitable(token) else token}"
        return headers


def _read(call: Call, response: aiohttp.ClientResponse, content: bytes) -> Reply:
    """Return the model of an answer. Raises Problem or UnexpectedAnswer."""
    status, retry_after = response.status, seconds_of(response.headers.get("Retry-After"))
    try:
        if status in call.replies:
            return call.replies[status].model_validate_json(content)
        body = json.loads(content)
        if response.content_type == "application/problem+json" and body["status"] == status:
            raise problem(body, retry_after)
    except (ValidationError, ValueError, KeyError, TypeError):
        pass
    raise UnexpectedAnswer(status, content.decode(errors="replace"), retry_after)
