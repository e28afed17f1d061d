"""Numbers, durations and times are short and exact enough to compare."""

from datetime import UTC, datetime

import pytest

from deploy.console.formats import NOTHING, Formats
from deploy.console.texts import texts

F = Formats(texts("en"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, NOTHING), (0, "0"), (0.0, "0"), (0.123, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (123.4, "123")),
        *((1234567.8, "1,234,568"), (-3.25, "-3.25")),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert F.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, NOTHING), (0, "0 s"), (0.25, "0.25 s"), (59.9, "59.9 s"), (60, "1 min"), (61.9, "1 min 1 s")),
        *((3600, "1 h"), (3660, "1 h 1 min"), (86_400, "1 d"), (90_000, "1 d 1 h"), (8_640_000, "100 d")),
    ],
)
def test_duration_has_two_units(seconds: float | None, text: str) -> None:
    assert F.seconds(seconds) == text


def test_units_are_in_the_language() -> None:
    assert Formats(texts("ko")).seconds(3660) == "1시간 1분"


@pytest.mark.parametrize(
    "value", ["2026-11-28T13:00:05+09:00", datetime(2026, 11, 28, 4, 0, 5, tzinfo=UTC), 1_795_838_405.4]
)
def test_time_is_in_utc_to_the_second(value: object) -> None:
    assert F.time(value) == "2026-11-28 04:00:05"
    assert F.iso(value).startswith("2026-11-28T04:00:05")


def test_nothing_is_a_dash() -> None:
    assert (F.time(None), F.iso(None), F.bytes(None), F.percent(None)) == (NOTHING, "", NOTHING, NOTHING)
    assert (F.bytes(1024 * 1024 * 1500), F.percent(0.076)) == ("1,500 MiB", "8%")
