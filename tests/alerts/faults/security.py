"""Faults of certificates and of the issuer of tokens, at the replica that uses them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.alerts.faults.platform import Platform
from tests.alerts.faults.situation import Situation
from tests.alerts.faults.spare import VALID_DAYS


@asynccontextmanager
async def a_certificate_is_old(platform: Platform) -> AsyncIterator[None]:
    """Replace the certificate by one that expires in three days, as when its renewal fails."""
    platform.spare.renew(3)
    try:
        yield
    finally:
        platform.spare.renew(VALID_DAYS)


@asynccontextmanager
async def a_certificate_is_broken(platform: Platform) -> AsyncIterator[None]:
    """Replace the certificate by a file that is none."""
    platform.spare.spoil()
    try:
        yield
    finally:
        platform.spare.renew(VALID_DAYS)


@asynccontextmanager
async def the_issuer_is_away(platform: Platform) -> AsyncIterator[None]:
    """Let the issuer answer 503."""
    platform.spare.issuer.is_away = True
    try:
        yield
    finally:
        platform.spare.issuer.is_away = False


SITUATIONS = [
    Situation(
        "a certificate expires",
        a_certificate_is_old,
        {"CertificateExpires": {"job": "product", "file": "{certificate}"}},
    ),
    Situation(
        "a certificate is replaced by a broken one",
        a_certificate_is_broken,
        {"CertificateUnusable": {"job": "product", "files": "{certificate} {key}"}},
    ),
    Situation("the issuer of tokens is away", the_issuer_is_away, {"IssuerKeysOld": {"job": "product"}}),
]
