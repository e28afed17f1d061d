"""Makes the authenticator that the settings ask for."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from shared.identity import keys, tokens
from shared.identity.authenticator import Authenticator, JwtAuthenticator, OpenAuthenticator
from shared.identity.keys import IssuerKeys
from shared.identity.secrets import SecretFile
from shared.process.exits import Exit, end
from shared.process.settings import IdentitySettings, ParticipantSettings
from shared.tls import TlsFiles, client

# Settings with which services identify each other by certificates, so that secrets are not required.
CERTIFICATES = ("internal_client_ca_file", "participants_certificate_file")


@asynccontextmanager
async def authenticator(settings: IdentitySettings) -> AsyncIterator[Authenticator]:
    """Make the authenticator of a process. End the process with status 2, and a line an error, for wrong settings."""
    wrong = errors(settings)
    if wrong:
        end(Exit.MISCONFIGURED, *wrong)
    if settings.auth_mode == "open":
        yield OpenAuthenticator()
        return
    rules = tokens.TokenRules(
        settings.auth_issuer or "",
        settings.auth_audience or "",
        settings.auth_algorithms,
        [name.lower() for name in settings.auth_token_types],
    )
    async with (
        aiohttp.ClientSession() as session,
        IssuerKeys(_reader(settings, session)) as issuer_keys,
    ):
        if not isinstance(settings, ParticipantSettings):
            yield JwtAuthenticator(rules, issuer_keys)
            return
        file = settings.internal_secret_file
        names = settings.internal_client_names if settings.internal_client_ca_file else ()
        yield JwtAuthenticator(rules, issuer_keys, SecretFile(Path(file)) if file else None, names)


def errors(settings: IdentitySettings) -> list[str]:
    """Return a line for each setting that is wrong or missing for a service that answers requests."""
    if settings.auth_mode is None:
        return ["setting AUTH_MODE: is not set; it may be jwt, or, where nobody else can connect, open"]
    if settings.auth_mode == "open":
        if is_loopback(settings.host):
            return []
        return [f"setting AUTH_MODE: open asks nobody who they are, so the host must be loopback, not {settings.host}"]
    given = {
        "AUTH_ISSUER": settings.auth_issuer,
        "AUTH_AUDIENCE": settings.auth_audience,
        "AUTH_JWKS": settings.auth_jwks,
    }
    if not any(getattr(settings, name, None) for name in CERTIFICATES):
        prefix = settings.model_config.get("env_prefix", "")
        given |= {
            f"{prefix}{name.upper()}": getattr(settings, name)
            for name in type(settings).model_fields
            if name.endswith("internal_secret_file")
        }
    lines = [f"setting {name}: is not set, but AUTH_MODE=jwt needs it" for name, value in given.items() if not value]
    wrong = [name for name in settings.auth_algorithms if name not in tokens.ALGORITHMS]
    lines += [f"setting AUTH_ALGORITHMS: {name!r} is not one of {' '.join(tokens.ALGORITHMS)}" for name in wrong]
    return lines


def _reader(settings: IdentitySettings, session: aiohttp.ClientSession) -> keys.Read:
    place = settings.auth_jwks or ""
    if place.startswith(("http://", "https://")):
        return keys.from_url(session, place, client(TlsFiles(authorities=settings.auth_ca_file)))
    return keys.from_file(Path(place))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
