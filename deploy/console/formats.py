"""How numbers, durations and times are written in pages. Pure."""

from datetime import UTC, datetime
from typing import Any

from deploy.console.texts import Texts

MINUTE, HOUR, DAY = 60, 3600, 86_400
NOTHING = "\u2013"


class Formats:
    """The formats in one language."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def number(self, value: float | None) -> str:
        """Return a number, with three digits if it is small."""
        if value is None:
            return NOTHING
        if value == int(value) or abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"

    def seconds(self, value: float | None) -> str:
        """Return a duration in its two largest units."""
        if value is None:
            return NOTHING
        if value < MINUTE:
            return self._texts("unit.s", n=self.number(round(value, 2)))
        whole = int(value)
        for unit, size, lower, lower_size in (
            ("d", DAY, "h", HOUR),
            ("h", HOUR, "min", MINUTE),
            ("min", MINUTE, "s", 1),
        ):
            if whole >= size:
                rest = whole % size // lower_size
                first = self._texts(f"unit.{unit}", n=whole // size)
                return f"{first} {self._texts(f'unit.{lower}', n=rest)}" if rest else first
        raise AssertionError(value)

    def bytes(self, value: float | None) -> str:
        """Return a size in MiB."""
        return NOTHING if value is None else f"{value / 2**20:,.0f} MiB"

    def percent(self, value: float | None) -> str:
        """Return a share of 1 in percent."""
        return NOTHING if value is None else f"{value:.0%}"

    def time(self, value: Any) -> str:
        """Return a time in UTC, to the second. `value`: a datetime, RFC 3339, or seconds since the epoch."""
        at = instant(value)
        return NOTHING if at is None else f"{at:%Y-%m-%d %H:%M:%S}"

    def clock(self, value: Any) -> str:
        """Return the time of day in UTC, to the millisecond."""
        at = instant(value)
        return NOTHING if at is None else f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"

    def between(self, before: Any, after: Any) -> str:
        """Return the time between two times."""
        first, second = instant(before), instant(after)
        if first is None or second is None:
            return NOTHING
        seconds = max(0.0, (second - first).total_seconds())
        return self.seconds(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"

    def iso(self, value: Any) -> str:
        """Return a time for programs."""
        at = instant(value)
        return "" if at is None else at.isoformat()


def instant(value: Any) -> datetime | None:
    """Return a time in UTC."""
    if value is None:
        return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return at.astimezone(UTC)
