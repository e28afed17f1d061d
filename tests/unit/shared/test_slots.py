"""A user's slot never changes, and ids contain it."""

from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import uuid7
from shared.slots import SLOTS, slot_in, slot_of


@pytest.mark.parametrize(
    ("user_id", "slot"),
    [("alice", 3143), ("bob", 320), ("123456789", 2342), ("김민수", 2672), ("\u00e9", 3390), ("e\u0301", 2861)],
)
def test_slots_of_known_users_are_what_they_always_were(user_id: str, slot: int) -> None:
    assert slot_of(user_id) == slot


@given(st.integers(0, SLOTS - 1))
def test_an_id_with_a_slot_is_still_a_uuid_of_version_7(slot: int) -> None:
    made = uuid7(slot=slot)
    assert (made.version, made.variant, slot_in(made)) == (7, RFC_4122, slot)
    assert str(made)[15:18] == f"{slot:03x}"


def test_every_bit_after_the_slot_is_random() -> None:
    made = [uuid7(slot=0xABC).int for _ in range(200)]
    varied = 0
    for each in made:
        varied |= each ^ made[0]
    assert varied & ((1 << 76) - 1) == (1 << 62) - 1
