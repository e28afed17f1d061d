"""Refusals: the expected failures of the rules, each a class whose docstring is its message.

The tree, drawn once:

    Refusal                 the rules say no; the caller gets a problem (RFC 9457), nothing is logged as an error
      <one class a reason>  in each service's domain.py, and the ones below that every service shares
    Unavailable             transient: what we need did not answer; the caller may try again
      NothingSent           it was not even asked, so there is no doubt whether it did something

Standard library only, so that the pure rules may import it.
"""

from typing import Any, ClassVar


class Refusal(Exception):  # noqa: N818 - the field's word is refusal, not error
    """The rules refuse this."""

    slug: ClassVar[str] = "refused"
    status: ClassVar[int] = 400
    # For what passes by itself: when to ask again, sent as Retry-After.
    retry_after_seconds: ClassVar[int | None] = None

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

    def __init__(self, detail: str = "", *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail or (self.__doc__ or ""))
        self.retry_after_seconds = retry_after_seconds


class NothingSent(Unavailable):
    """The database can't be reached, so nothing was sent to it."""
