"""Ids sort by the time they were made."""

import time
from datetime import UTC, datetime
from uuid import RFC_4122

from shared.ids import uuid7


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = [uuid7() for _ in range(1000)]
    assert {(each.version, each.variant) for each in made} == {(7, RFC_4122)}
    assert len(set(made)) == len(made)


def test_an_id_begins_with_the_milliseconds_it_was_made_in() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7().int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_id_contains_the_given_time() -> None:
    timestamp = datetime(2024, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert uuid7(timestamp).int >> 80 == 1_704_164_645_678


def test_every_random_bit_varies() -> None:
    made = [uuid7().int for _ in range(200)]
    fixed = (0xF << 76) | (0b11 << 62)
    varied = 0
    for each in made:
        varied |= each ^ made[0]
    assert varied & ((1 << 80) - 1) == ((1 << 80) - 1) & ~fixed
