"""The services, as one command sees them: connections, the caller's token, and the time that a call may take."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import aiohttp

from deploy.client import Client, Policy, Service
from deploy.client.models import Body
from deploy.client.transport import Call, Request, Transport
from deploy.orderctl.calls import Raw
from deploy.orderctl.places import DEADLINE_SECONDS, MisconfiguredError, Places, read, variable

Result = TypeVar("Result")

HOUR = 3600.0
PATIENT = Policy(deadline_seconds=HOUR, attempt_seconds=HOUR)
# For one answer that takes minutes, as that of a pass over millions of orders. A refusal comes soon.
LONG_CALL = replace(PATIENT, repeat_seconds=DEADLINE_SECONDS)


class Platform:
    """The public APIs, and those for operators."""

    def __init__(self, session: aiohttp.ClientSession, places: Places, policy: Policy) -> None:
        self._session, self._places, self._policy = session, places, policy
        token = places.read_token if places.has_token else None
        self._admin = Transport(session, places.urls, token, policy)
        urls = {service: places.urls[service] for service in Service if service in places.urls}
        self._client = Client(urls, token=token, policy=policy, session=session)

    def client(self, service: Service) -> Client:
        """Return the client for the API of a service. Raises MisconfiguredError if its address is not known."""
        self._require(service)
        return self._client

    async def admin(self, call: Call, *, body: Body | None = None, id_: str | None = None, **query: object) -> Raw:
        """Call an operators' API. Raises ClientError, and MisconfiguredError if its address is not known."""
        self._require(call.service)
        given = {name: str(value) for name, value in query.items() if value is not None}
        request = Request(call, {} if id_ is None else {"id": id_}, given, body)
        answer: Raw = await self._admin.model(request, self._admin.deadline(None))
        return answer

    def at(self, listener: str, url: str) -> "Platform":
        """Return the platform with another address of a listener, such as that of another cell."""
        return Platform(self._session, replace(self._places, urls={**self._places.urls, listener: url}), self._policy)

    def _require(self, listener: str) -> None:
        if listener not in self._places.urls:
            raise MisconfiguredError(f"setting {variable(listener)}: required for this command")


def ask(
    question: Callable[[Platform], Awaitable[Result]], policy: Policy | None = None, *, beside: bool = True
) -> Result:
    """Ask the services a question, and return the answer. Raises ClientError and MisconfiguredError.

    `beside`: without an address in the environment, ask those of `make run`.
    """
    places = read(os.environ, beside=beside)
    policy = policy or Policy(deadline_seconds=places.deadline_seconds)

    async def answer() -> Result:
        connector = aiohttp.TCPConnector(ssl=_trusted(places)) if places.ca_file else None
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            return await question(Platform(session, places, policy))

    return asyncio.run(answer())


def has_token() -> bool:
    """Return whether requests carry a token. Raises MisconfiguredError."""
    return read(os.environ, beside=False).has_token


def _trusted(places: Places) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=places.ca_file)
    except OSError as error:
        raise MisconfiguredError(f"setting ORDERCTL_CA_FILE: {error}") from None
