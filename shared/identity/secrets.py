"""The credentials with which services of this product call each other: secrets in a file that may be replaced."""

import hmac
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from shared.identity.callers import Caller, InvalidToken, Unauthenticated
from shared.refusals import Unavailable

# How long a secret that was taken out of the file is still accepted, and the time after which a new one is.
REREAD_SECONDS = 5.0
REREAD_FOR_UNKNOWN_SECONDS = 1.0
LINE = re.compile(r"([a-z][a-z0-9-]{0,39}) +([!-~]{32,512})")
LINES_MAX = 16

# Makes the headers that identify a caller.
Credential = Callable[[], Mapping[str, str]]


class NoSecret(Unavailable):
    """The services can't identify each other: a file of secrets is missing or malformed."""


class SecretFile:
    """The secrets of one service: a line for each, with the name of the caller that has it, and the secret.

    Two lines of a caller are both accepted, so that a secret can be replaced without an interruption. Callers send the
    first. Empty lines and lines that begin with `#` are left out.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._secrets: list[tuple[str, str]] = []
        self._read_at = float("-inf")

    def caller(self, header: str | None) -> Caller:
        """Return the service that sent this `Authorization` header.

        Raise Unauthenticated, InvalidToken, or Unavailable if the file can't be read.
        """
        scheme, _, secret = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        name = self._find(secret, self.read()) or self._find(secret, self.read(REREAD_FOR_UNKNOWN_SECONDS))
        if name is None:
            raise InvalidToken
        return Caller(f"service:{name}")

    def credential(self, caller: str) -> dict[str, str]:
        """Return the header with which `caller` calls. Raise Unavailable if the file has no secret of that caller."""
        for name, secret in self.read():
            if name == caller:
                return {"Authorization": f"Bearer {secret}"}
        raise NoSecret from ValueError(f"{self._path} has no secret of {caller}")

    def read(self, age_max_seconds: float = REREAD_SECONDS) -> list[tuple[str, str]]:
        """Return the callers and secrets in the file's order. Raise Unavailable if it can't be read or is malformed."""
        if self._clock() - self._read_at > age_max_seconds:
            self._secrets = _parse(self._path)
            self._read_at = self._clock()
        return self._secrets

    @staticmethod
    def _find(given: str, secrets: list[tuple[str, str]]) -> str | None:
        """Compare with all, in a time that does not depend on how much is right."""
        found = None
        for name, secret in secrets:
            if hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode()):
                found = name
        return found


def _parse(path: Path) -> list[tuple[str, str]]:
    try:
        lines = [line.strip() for line in path.read_text("ascii").splitlines()]
    except (OSError, ValueError) as error:
        raise NoSecret from ValueError(f"{path} can't be read: {type(error).__name__}")
    matches = [LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    if not matches or len(matches) > LINES_MAX or None in matches:
        raise NoSecret from ValueError(
            f"{path} must have 1 to {LINES_MAX} lines of a caller and a secret of 32 or more characters"
        )
    return [(match[1], match[2]) for match in matches if match is not None]
