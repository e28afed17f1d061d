"""Runs a service whose clock is wrong: `python -m tests.faults.wrong_clock services.order`, off by CLOCK_OFF_SECONDS.

Only the time of day is changed. Monotonic clocks still measure durations correctly.
"""

import datetime
import os
import runpy
import sys
import time


class _Straight(type):
    """Treat every datetime as an instance of ours."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL)


_REAL = datetime.datetime


def offset_clock(seconds: float) -> None:
    """Change the time of day by `seconds`, before anything else is imported."""
    real_time, real_time_ns, off = time.time, time.time_ns, datetime.timedelta(seconds=seconds)

    class OffsetDatetime(_REAL, metaclass=_Straight):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return _REAL.now(tz) + off

        @classmethod
        def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
            return _REAL.now(datetime.UTC).replace(tzinfo=None) + off

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    datetime.datetime = OffsetDatetime  # type: ignore[misc]


if __name__ == "__main__":
    offset_clock(float(os.environ["CLOCK_OFF_SECONDS"]))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
