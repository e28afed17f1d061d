"""Limits what each caller begins in this process, so that no caller takes its capacity or fills the database.

An order, a payment and a cancellation count alike: each starts a saga, whose rows are kept also if it is refused.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from shared.refusals import Refusal

MINUTE_SECONDS = 60.0
# The callers whose rate is known at a time. Beyond it, the one who has begun nothing for the longest time is forgotten,
# and may begin as many as a new one. A caller takes less than 1 KB here.
SUBJECTS_MAX = 10_000


class TooManyRequests(Refusal):
    """This caller has begun too many orders, payments and cancellations."""

    slug = "too-many-requests"
    status = 429

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Quota:
    """What each subject, the user of a token, may begin. Without a subject, as in open mode, there is no limit.

    `per_minute` operations may be begun at once, and as many in each minute, evenly spread. `under_way_max` may be
    under way. `clock` returns seconds.
    """

    def __init__(self, *, per_minute: int, under_way_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._interval_seconds = MINUTE_SECONDS / per_minute
        self._under_way_max = under_way_max
        self._clock = clock
        # By subject. No more than the process' requests and sagas.
        self._under_way: dict[str, int] = {}
        # By subject, the least recent first: the time when the full budget is available again.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def enter(self, subject: str | None) -> None:
        """Count an operation that is about to begin, until `leave`. Raises TooManyRequests."""
        if subject is None:
            return
        under_way = self._under_way.get(subject, 0)
        if under_way >= self._under_way_max:
            raise TooManyRequests(f"{under_way} operations of this caller are still under way.", 1)
        self._check_rate(subject)
        self._under_way[subject] = under_way + 1

    def leave(self, subject: str | None) -> None:
        """Record that an operation has ended."""
        if subject is None:
            return
        under_way = self._under_way.pop(subject) - 1
        if under_way:
            self._under_way[subject] = under_way

    def _check_rate(self, subject: str) -> None:
        now = self._clock()
        full_at = max(self._full_at.pop(subject, now), now)
        wait_seconds = full_at + self._interval_seconds - MINUTE_SECONDS - now
        allowed = wait_seconds < self._interval_seconds / 1000  # the sum of the intervals is not exactly a minute
        self._full_at[subject] = full_at + self._interval_seconds * allowed
        if len(self._full_at) > SUBJECTS_MAX:
            self._full_at.popitem(last=False)
        if not allowed:
            detail = f"This caller may begin {self._per_minute} operations a minute."
            raise TooManyRequests(detail, math.ceil(wait_seconds))
