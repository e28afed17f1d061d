"""The summary of a figure: its last value, its mean over the last minute, and its highest value."""

from collections.abc import Sequence

import pytest

from deploy.console.figures.sampler import INTERVAL_SECONDS, Point
from deploy.console.pages.live import summary

OLDER = [1000.0] * 3
MINUTE = int(60 / INTERVAL_SECONDS)


@pytest.mark.parametrize(
    ("values", "now", "mean", "highest"),
    [
        ([], None, None, None),
        ([None], None, None, None),
        ([1.0, None, 3.0], 3.0, 2.0, 3.0),
        ([5.0, None], None, 5.0, 5.0),
        ([*OLDER, *[2.0] * (MINUTE - 1), 4.0], 4.0, (2.0 * (MINUTE - 1) + 4.0) / MINUTE, 1000.0),
        ([*OLDER, *[None] * MINUTE], None, None, 1000.0),
    ],
    ids=["no point", "unknown", "partly unknown", "unknown now", "older than a minute", "unknown for a minute"],
)
def test_mean_is_of_the_known_values_of_the_last_minute(
    values: Sequence[float | None], now: float | None, mean: float | None, highest: float | None
) -> None:
    points = [Point(number, 0.0, {"figure": value}, ()) for number, value in enumerate(values)]
    assert summary(points, "figure") == {"now": now, "mean": mean, "highest": highest}
