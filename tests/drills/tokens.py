"""Tokens of customers and operators, and the settings of services that ask for them."""

import time
from pathlib import Path

from tests.infrastructure.issuer import RSA, RULES, claims, jwk_set, sign

VALID_SECONDS = 4 * 3600  # longer than any run of drills


class Tokens:
    """An issuer, whose keys are in a file of this folder."""

    def __init__(self, folder: Path) -> None:
        self._keys = folder / "jwks.json"
        self._keys.write_bytes(jwk_set(RSA))

    def token(self, subject: str, scope: str = "") -> str:
        """Return a token of a user, with scopes that are separated by spaces."""
        now = time.time()
        return sign(claims(sub=subject, scope=scope, exp=now + VALID_SECONDS, nbf=now - 60))

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of all services."""
        return {
            "AUTH_MODE": "jwt",
            "AUTH_ISSUER": RULES.issuer,
            "AUTH_AUDIENCE": RULES.audience,
            "AUTH_JWKS": str(self._keys),
            # A few tokens for everything that all customers buy.
            "ORDER_SUBJECT_SAGAS_MAX": "1000",
            "ORDER_SUBJECT_STARTS_PER_MINUTE": "1000000",
        }
