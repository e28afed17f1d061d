"""Runs the issuer, or prints a token: `python -m deploy.issuer serve`, `python -m deploy.issuer token --sub alice`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey

ALGORITHM = "ES256"
TOKEN_SECONDS = 12 * 3600
WARNING = "Whoever can read this issuer's key file can make every token. It is for development only."


def main(arguments: Sequence[str]) -> None:
    """Run one of the two commands. Options default to the environment: ISSUER_KEY_FILE, ISSUER_URL, and others."""
    parser = argparse.ArgumentParser(prog="issuer", description=WARNING)
    parser.add_argument("--key-file", type=Path, default=os.environ.get("ISSUER_KEY_FILE", "issuer.pem"))
    parser.add_argument("--issuer", default=os.environ.get("ISSUER_URL", "http://127.0.0.1:8007"))
    parser.add_argument("--audience", default=os.environ.get("ISSUER_AUDIENCE", "order-platform"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="publish the key over HTTP")
    serve.add_argument("--host", default=os.environ.get("ISSUER_HOST", "127.0.0.1"))
    serve.add_argument("--port", type=int, default=int(os.environ.get("ISSUER_PORT", "8007")))
    token = commands.add_parser("token", help="print a token")
    token.add_argument("--sub", required=True, help="the user")
    token.add_argument("--scopes", default="", help='separated by spaces, for instance "catalog:write ops"')
    token.add_argument("--seconds", type=int, default=TOKEN_SECONDS, help="how long the token is valid")
    options = parser.parse_args(arguments)
    issuer = Issuer(read_or_create_key(options.key_file), options.issuer, options.audience)
    if options.command == "token":
        print(issuer.token(options.sub, options.scopes, options.seconds))  # noqa: T201 - the command's result
        return
    print(WARNING, file=sys.stderr)  # noqa: T201 - talks to a person
    web.run_app(issuer.application(), host=options.host, port=options.port, print=None, access_log=None)


def read_or_create_key(path: Path) -> ECKey:
    """Return the private key in the file, which is created, for its owner only, if it does not exist."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return ECKey.import_key(path.read_bytes())
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM}, auto_kid=True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.as_pem(private=True))
    return key


class Issuer:
    """Issues access tokens as RFC 9068 describes them."""

    def __init__(self, key: ECKey, issuer: str, audience: str) -> None:
        key.ensure_kid()
        self._key = key
        self._issuer = issuer
        self._audience = audience

    def token(self, subject: str, scopes: str, seconds: int = TOKEN_SECONDS) -> str:
        """Return a token for `subject` that is valid for `seconds` from now; `scopes` are separated by spaces."""
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "scope": scopes,
            "iat": now,
            "exp": now + seconds,
        }
        header = {"alg": ALGORITHM, "kid": self._key.kid, "typ": "at+jwt"}
        return jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])

    def key_set(self) -> dict[str, Any]:
        """Return the JWK set with the public key."""
        return {"keys": [self._key.as_dict(private=False, use="sig", alg=ALGORITHM)]}

    def application(self) -> web.Application:
        """Return the HTTP application: `GET /jwks`. It gives no tokens: every service can connect to it."""
        application = web.Application()
        application.router.add_get("/jwks", self._jwks)
        return application

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response(self.key_set())


if __name__ == "__main__":
    main(sys.argv[1:])
