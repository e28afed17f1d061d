"""Callers and the policies of routes. Pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from shared.contracts.scopes import WIDER, Scope
from shared.refusals import Refusal


class Unauthenticated(Refusal):
    """This call needs a valid token."""

    slug = "unauthenticated"
    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class InvalidToken(Unauthenticated):
    """This call needs a valid token."""

    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Forbidden(Refusal):
    """The token does not have the scope that this call needs."""

    slug = "forbidden"
    status = 403

    def __init__(self, required_scope: str) -> None:
        super().__init__(required_scope=required_scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `subject` is None in open mode, where nobody is asked who they are and everybody may do everything."""

    subject: str | None
    scopes: Set[str] = frozenset()
    # Seconds since the epoch. The token is refused from then on.
    expires_at: float = float("inf")

    def has(self, scope: Scope) -> bool:
        """Return whether the caller may do what needs `scope`."""
        if self.subject is None or scope.value in self.scopes:
            return True
        wider = WIDER.get(scope)
        return wider is not None and wider.value in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if the caller lacks `scope`."""
        if not self.has(scope):
            raise Forbidden(scope.value)

    def acts_for(self, user_id: str, scope: Scope) -> bool:
        """Return whether the caller is `user_id`, or has the scope for every user."""
        return self.subject == user_id or self.has(scope)


OPEN = Caller(subject=None)
# The service that compares books: it reads what a participant has, and changes nothing.
AUDIT = "service:audit"


class Policy(Enum):
    """Who may call a route that needs no scope."""

    PUBLIC = "public"  # everybody, without a token
    SIGNED_IN = "signed-in"  # everybody with a token; the handler looks at whose data it is
    INTERNAL = "internal"  # another service of this product


PUBLIC, SIGNED_IN, INTERNAL = Policy.PUBLIC, Policy.SIGNED_IN, Policy.INTERNAL
