"""When a call is repeated, after how long, and when it is given up. No input or output.

| what an attempt met                                  | repeated | may it have had its effect? |
|------------------------------------------------------|----------|-----------------------------|
| no connection                                        | yes      | no                          |
| a connection that broke, or no answer in time        | yes      | yes                         |
| 502, 503, 504                                        | yes      | yes                         |
| 500, a bug                                           | twice    | yes                         |
| 408, 429, 409 idempotency-in-progress                | yes      | no                          |
| any other answer                                     | no       |                             |

A call that may have had its effect is repeated only if it is safe to repeat: it reads, it has an idempotency key, it
sets values, or it creates something under a known id.
"""

import math
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .problems import IdempotencyInProgress, Problem, UnexpectedAnswer

WITHOUT_EFFECT = frozenset({408, 429})
PERHAPS_WITH_EFFECT = frozenset({500, 502, 503, 504})
BUG = 500
BUGS_MAX = 3  # a bug may depend on the moment; one that shows up three times does not


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is. `deadline_seconds` is for a whole call, with all its repetitions.

    `repeat_seconds`: since the beginning of a call, a failed attempt after this time is the last one.
    """

    deadline_seconds: float = 30.0
    attempt_seconds: float = 12.0  # a service answers within a second of its own deadline, 10 seconds by default
    connect_seconds: float = 3.0
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 2.0
    repeat_seconds: float = math.inf

    def pause(self, attempt: int, retry_after: float | None = None) -> float:
        """Return how long to wait after the given attempt, the first being 0: never less than the service asks for.

        Half of the pause is random, so that clients that failed together don't come back together.
        """
        longest: float = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(attempt, 30))
        return (retry_after or 0.0) + longest * random.uniform(0.5, 1.0)  # noqa: S311 # spreads, hides nothing


@dataclass(slots=True)
class Deadline:
    """The time that is left for a call."""

    seconds: float
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def passed(self) -> float:
        """Return the seconds since the call began."""
        return self.seconds - self.left()

    def left(self) -> float:
        """Return the seconds that are left, 0 or more."""
        return max(0.0, self._end - time.monotonic())


def is_temporary(error: Problem | UnexpectedAnswer) -> bool:
    """Return whether the same request may get another answer later."""
    return isinstance(error, IdempotencyInProgress) or error.status in WITHOUT_EFFECT | PERHAPS_WITH_EFFECT


def may_have_acted(error: Problem | UnexpectedAnswer) -> bool:
    """Return whether a request with this answer may have had its effect all the same."""
    return error.status in PERHAPS_WITH_EFFECT


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds of a `Retry-After`, given as seconds or as a date; None if there is none that can be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else math.inf
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
