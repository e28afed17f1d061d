"""Refusals: the expected failures of the rules, each a class whose docstring is its message.

The tree, drawn once:

    Refusal                 the rules say no; the caller gets a problem (RFC 9457), nothing is logged as an error
      <one class a reason>  in each service's domain.py, and the ones below that every service shares
    Unavailable             transient: a database or service did not answer; the caller may try again
      NothingSent           nothing was sent to it, so it certainly did nothing
      SlotClosed            the database refused it, because its users move to another cell

Standard library only, so that the pure rules may import it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class Refusal(Exception):  # noqa: N818 - the field's word is refusal, not error
    """The rules refuse this."""

    slug: ClassVar[str] = "refused"
    status: ClassVar[int] = 400
    # Further headers of the answer.
    headers: ClassVar[Mapping[str, str]] = {}
    # When the caller may try again, sent as Retry-After; None if that does not help.
    retry_after_seconds: int | None = None

    def __init__(self, detail: str | None = None, **members: Any) -> None:
        """`detail` replaces the docstring as the explanation; `members` are the problem's extra fields."""
        super().__init__(detail or self.title())
        self.detail = detail or self.title()
        self.members = members

    @classmethod
    def title(cls) -> str:
        """Return the first sentence of the class's docstring, without its full stop."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")

    def problem(self) -> dict[str, Any]:
        """Return the RFC 9457 object, without `instance`, which only the HTTP layer knows."""
        return {
            "type": f"/problems/{self.slug}",
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }


class Unavailable(Exception):  # noqa: N818 - transient by definition
    """Something this service can't do without did not answer; trying again may help."""

    slug = "unavailable"
    status = 503
    retry_after_seconds: ClassVar[int] = 1

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (self.__doc__ or ""))


class NothingSent(Unavailable):
    """The database can't be reached, so nothing was sent to it."""


class SlotClosed(Unavailable):
    """The users of this slot are being moved to another cell; nothing was begun."""

    retry_after_seconds = 5
