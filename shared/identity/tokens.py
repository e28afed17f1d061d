"""Verifies access tokens (JWT, RFC 7519 and RFC 9068). Pure: the caller passes the issuer's keys and the time."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import JWKRegistry, Key
from joserfc.util import urlsafe_b64decode

from shared.contracts.types import ID_MAX
from shared.identity.callers import Caller

# Nothing symmetric: a public key could pass for a shared secret. "none" is no algorithm.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
LEEWAY_SECONDS = 30  # the clocks of issuer and service may differ by so much
TOKEN_MAX = 8192  # characters; longer header lines are refused by most proxies
KEYS_MAX = 100


class TokenRefused(Exception):  # noqa: N818 - a refusal, not an error
    """The token is not valid; the message says why, for the log. It repeats nothing of the token."""


class UnknownKey(TokenRefused):
    """No known key has the id that the token names. The issuer may have a new key."""

    def __init__(self, kid: str) -> None:
        super().__init__("its key is unknown")
        self.kid = kid


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be. `types`: lower-case values of the header `typ`."""

    issuer: str
    audience: str
    algorithms: Sequence[str] = ("RS256", "ES256")
    types: Sequence[str] = ("at+jwt", "jwt")


def read_keys(document: bytes) -> dict[str, Key]:
    """Return the usable public keys of a JWK set (RFC 7517) by their ids.

    Keys of unknown kinds, symmetric keys, keys for encryption, keys without an id and RSA keys below 2048 bits are left
    out. Raise ValueError if the document is no JWK set or holds more than 100 keys.
    """
    content = json.loads(document)
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set: it has no list `keys`")  # noqa: TRY004 - a wrong document
    if len(entries) > KEYS_MAX:
        raise ValueError(f"has more than {KEYS_MAX} keys")
    keys = {}
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or entry.get("use", "sig") != "sig"
            or entry.get("kty") not in ("RSA", "EC", "OKP")
        ):
            continue
        kid = entry.get("kid")
        # The private part does not belong here, and is not used.
        public = {
            name: value
            for name, value in entry.items()
            if name not in ("d", "p", "q", "dp", "dq", "qi", "oth", "key_ops")
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error", SecurityWarning)  # raised for an RSA key that is too short
            try:
                key = JWKRegistry.import_key(public)
            except (JoseError, SecurityWarning, ValueError, TypeError, KeyError):
                continue
        if isinstance(kid, str):
            keys[kid] = key
    return keys


def verify(token: str, keys: Mapping[str, Key], rules: TokenRules, now: float) -> Caller:
    """Return the caller whom the token names.

    `now`: seconds since the epoch. Raise UnknownKey or TokenRefused.
    """
    signed = _parse(token)
    header = signed.headers()
    if "crit" in header or "b64" in header:
        raise TokenRefused("it asks for an extension")
    algorithm = header.get("alg")
    if algorithm not in rules.algorithms or algorithm not in ALGORITHMS:
        raise TokenRefused("its algorithm is not allowed")
    if str(header.get("typ", "")).lower().removeprefix("application/") not in rules.types:
        raise TokenRefused("it is of another type")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise TokenRefused("it names no key")
    key = keys.get(kid)
    if key is None:
        raise UnknownKey(kid)
    try:
        # The key's own kind and `alg` must fit the algorithm: the library checks both.
        if not jws.validate_compact(signed, key, registry=_REGISTRY):
            raise TokenRefused("its signature is wrong")
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRefused("its signature is wrong") from error
    return _caller(_claims(signed.payload), rules, now)


def _parse(token: str) -> jws.CompactSignature:
    if len(token) > TOKEN_MAX:
        raise TokenRefused("it is too long")
    try:
        encoded = token.encode("ascii")
        signed = jws.extract_compact(encoded, registry=_REGISTRY)
        _JSON.decode(urlsafe_b64decode(encoded.partition(b".")[0]).decode())
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise TokenRefused("it is no JWT") from error
    return signed


def _unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member is given twice")
    return found


# Refuses two members of one name: parsers differ in which they keep.
_JSON = json.JSONDecoder(object_pairs_hook=_unique_members)


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = _JSON.decode(payload.decode())
    except (ValueError, RecursionError) as error:
        raise TokenRefused("its claims are no JSON") from error
    if not isinstance(claims, dict):
        raise TokenRefused("its claims are no object")
    return claims


def _caller(claims: Mapping[str, Any], rules: TokenRules, now: float) -> Caller:
    if claims.get("iss") != rules.issuer:
        raise TokenRefused("it is of another issuer")
    audience = claims.get("aud")
    if audience != rules.audience and not (isinstance(audience, list) and rules.audience in audience):
        raise TokenRefused("it is for another audience")
    expires_at = _timestamp(claims, "exp")
    if expires_at is None:
        raise TokenRefused("it never expires")
    if now >= expires_at + LEEWAY_SECONDS:
        raise TokenRefused("it has expired")
    not_before = _timestamp(claims, "nbf")
    if not_before is not None and now < not_before - LEEWAY_SECONDS:
        raise TokenRefused("it is not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= ID_MAX or not subject.isprintable():
        raise TokenRefused("its subject is no user id")
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise TokenRefused("its scope is no text")
    return Caller(subject, frozenset(scope.split()), expires_at + LEEWAY_SECONDS)


def _timestamp(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a claim in seconds since the epoch, None if it is absent."""
    value = claims.get(name)
    if value is None:
        return None
    # A year beyond 9999 is no timestamp; Python's integers have no bound, and its JSON knows NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:
        raise TokenRefused(f"its {name} is no timestamp")
    return float(value)


_REGISTRY = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
