"""What is known about a problem type: when it is answered, whether a retry helps, and what to do."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Retry(StrEnum):
    """Whether the request may be sent again. The values are also the words of docs/api.md's table."""

    SAME = "same"
    LATER = "later"
    CORRECTED = "corrected"
    NO = "no"

    @property
    def advice(self) -> str:
        """Return the advice to a client's developer."""
        return _ADVICE[self]


_ADVICE: Mapping[Retry, str] = {
    Retry.SAME: (
        "Yes. If the answer has `Retry-After`, wait for so many seconds. Then send the same request, with the same "
        "`Idempotency-Key`."
    ),
    Retry.LATER: (
        "Only after something has changed. For a call with `Idempotency-Key` this answer is final, so send the request "
        "with a new key, or without one."
    ),
    Retry.CORRECTED: (
        "Only when it is corrected. The operation has not begun, so the corrected request may have the same "
        "`Idempotency-Key`."
    ),
    Retry.NO: "No. The same request gets the same answer again.",
}


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A problem type. In texts, code stands between backticks.

    `meaning`: when it is answered; docs/api.md has the same words. `remedy`: what the client's developer does.
    `members`: the problem's further members, and when it has them.
    """

    slug: str
    status: int
    retry: Retry
    meaning: str
    remedy: str
    members: str = ""

    @property
    def path(self) -> str:
        """Return the `type` of such a problem, which is also the path of its page."""
        return f"/problems/{self.slug}"

    @property
    def certain_members(self) -> Sequence[str]:
        """Return the names of the members that every such problem has."""
        return re.findall(r"`(\w+)`(?! \(| with)", self.members)


def by_slug(types: Iterable[ProblemType]) -> dict[str, ProblemType]:
    """Return the types by slug. Raises ValueError if two have the same one."""
    found: dict[str, ProblemType] = {}
    for one in types:
        if one.slug in found:
            raise ValueError(f"two problem types are {one.slug}")
        found[one.slug] = one
    return found
