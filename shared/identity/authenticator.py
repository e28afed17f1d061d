"""Authenticates callers by their bearer tokens, and remembers the tokens that it has verified."""

import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

from prometheus_client import Counter

from shared.identity.callers import OPEN, Caller, InvalidToken, Unauthenticated
from shared.identity.keys import IssuerKeys
from shared.identity.secrets import SecretFile
from shared.identity.tokens import TokenRefused, TokenRules, UnknownKey, verify
from shared.tls import names

REFUSED = Counter("http_tokens_refused_total", "Tokens that were not valid, by reason", ["reason"])
# Verifying a signature costs as much as a tenth of a checkout; looking a token up costs nothing that can be measured.
# A token takes some 2 KB here, and 8 KB at most.
REMEMBERED_MAX = 10_000

Certificate = Mapping[str, Any]  # as ssl's getpeercert() returns it
Check = Callable[[], Awaitable[None]]


class Authenticator(Protocol):
    """Finds the caller of a request in its `Authorization` header."""

    mode: str
    checks: Mapping[str, Check]  # of readiness: each raises if callers can't be identified

    def known(self, header: str | None) -> Caller | None:
        """Return the caller if that can be told at once, else None."""

    async def authenticate(self, header: str | None) -> Caller:
        """Return the caller. Raise Unauthenticated, InvalidToken, or NoKeys while tokens can't be checked."""

    def internal(self, header: str | None, certificate: Certificate | None = None) -> Caller:
        """Return which service of this product calls, by its certificate, or else by the secret in the header.

        `certificate` was verified in the handshake. Raise Unauthenticated, InvalidToken or Unavailable.
        """


class OpenAuthenticator:
    """Asks nobody who they are."""

    mode = "open"
    checks: Mapping[str, Check] = {}

    def known(self, header: str | None) -> Caller | None:  # noqa: ARG002
        """Return the caller who may do everything."""
        return OPEN

    async def authenticate(self, header: str | None) -> Caller:  # noqa: ARG002
        """Return the caller who may do everything."""
        return OPEN

    def internal(self, header: str | None, certificate: Certificate | None = None) -> Caller:  # noqa: ARG002
        """Return the caller who may do everything."""
        return OPEN


class JwtAuthenticator:
    """Believes tokens of one issuer.

    `secrets`, `client_names`: what identifies the services that may call /internal; the names are in certificates.
    `clock` returns seconds since the epoch.
    """

    mode = "jwt"

    def __init__(
        self,
        rules: TokenRules,
        keys: IssuerKeys,
        secrets: SecretFile | None = None,
        client_names: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._secrets = secrets
        self._client_names = client_names
        self._clock = clock
        self._remembered: dict[str, Caller] = {}
        # A service that has had keys stays ready without the issuer: calls between services need no tokens.
        self.checks: Mapping[str, Check] = {"tokens": keys.first} | (
            {} if secrets is None else {"secrets": self._check}
        )
        # A token that a withdrawn key has signed must be verified again.
        keys.on_change = self._remembered.clear

    def known(self, header: str | None) -> Caller | None:
        """Return the caller of a token that was verified before and has not expired, else None."""
        caller = None if header is None else self._remembered.get(header)
        if caller is None or not self._keys.usable():
            return None
        if self._clock() < caller.expires_at:
            return caller
        del self._remembered[header]  # type: ignore[arg-type]
        return None

    async def authenticate(self, header: str | None) -> Caller:
        """Return the caller. Raise Unauthenticated, InvalidToken, or NoKeys while tokens can't be checked."""
        scheme, _, token = (header or "").partition(" ")
        if header is None or scheme.lower() != "bearer":
            raise Unauthenticated
        token = token.strip(" ")
        try:
            caller = await self._verify(token)
        except TokenRefused as refused:
            # The reason is for operators. It would tell a stranger how far a forged token came.
            REFUSED.labels(str(refused)).inc()
            raise InvalidToken from None
        if header == f"Bearer {token}":  # in one spelling, or one token could fill the memory
            if len(self._remembered) >= REMEMBERED_MAX:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[header] = caller
        return caller

    def internal(self, header: str | None, certificate: Certificate | None = None) -> Caller:
        """Return which service of this product calls, by its certificate, or else by the secret in the header.

        Raise Unauthenticated, InvalidToken or Unavailable.
        """
        # A connection may stay open after its certificate has expired.
        if certificate and self._clock() <= ssl.cert_time_to_seconds(certificate["notAfter"]):
            for name in names(certificate):
                if name in self._client_names:
                    return Caller(f"service:{name}")
        if self._secrets is None:
            raise Unauthenticated
        return self._secrets.caller(header)

    async def _check(self) -> None:
        assert self._secrets is not None
        self._secrets.read()

    async def _verify(self, token: str) -> Caller:
        try:
            return verify(token, await self._keys.current(), self._rules, self._clock())
        except UnknownKey as unknown:
            return verify(token, await self._keys.current(unknown.kid), self._rules, self._clock())
