"""A user's slot never changes, ids contain it, and of several cells exactly one owns each user and each id."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import uuid7
from shared.slots import OLDER, ONE_CELL, SLOTS, Misdirected, Ownership, parse_slots, slot_in, slot_of


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


SINCE = datetime(2026, 12, 1, tzinfo=UTC)
SLOT_SETS = st.frozensets(st.integers(0, SLOTS - 1), max_size=8)
TIMES = st.integers(-86_400_000, 86_400_000).map(lambda milliseconds: SINCE + timedelta(milliseconds=milliseconds))
USERS = st.text(st.characters(codec="utf-8"), min_size=1)


def words(slots: Iterable[int], *, older: bool) -> list[str]:
    return [*map(str, slots), *([OLDER] if older else [])]


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        *(("0-4095", range(SLOTS)), ("7", [7]), ("older", [])),
        *(("0-2 older 4095", [0, 1, 2, 4095]), ("5-5 3-9", range(3, 10))),
    ],
)
def test_ranges_and_numbers_stand_for_slots(text: str, slots: Iterable[int]) -> None:
    assert parse_slots(text.split()) == set(slots)


@pytest.mark.parametrize("word", ["4096", "3-2", "-1", "1-", "0-4096", "a", "1,2", "٣", "oldest", "00001"])
def test_other_words_are_no_slots(word: str) -> None:
    with pytest.raises(ValueError, match="is neither a slot"):
        parse_slots([word])


@given(SLOT_SETS, st.booleans(), TIMES, USERS)
def test_each_user_and_each_id_belongs_to_exactly_one_of_two_cells(
    slots: frozenset[int], older: bool, moment: datetime, user_id: str
) -> None:
    one = Ownership.of(words(slots, older=older), SINCE)
    other = Ownership.of(words(set(range(SLOTS)) - slots, older=not older), SINCE)
    id_ = uuid7(moment, slot_of(user_id))
    assert one.owns(id_) is not other.owns(id_)
    assert passes(one.check_id, id_) is one.owns(id_)
    assert passes(one.check_user, user_id) is not passes(other.check_user, user_id)


@given(SLOT_SETS, st.booleans(), TIMES, USERS)
def test_id_with_a_slot_is_of_its_users_cell_and_an_older_one_of_one_cell(
    slots: frozenset[int], older: bool, moment: datetime, user_id: str
) -> None:
    cell = Ownership.of(words(slots, older=older), SINCE)
    id_ = uuid7(moment, slot_of(user_id))
    assert cell.is_before_slots(moment) is cell.is_older(id_) is (moment < SINCE)
    assert cell.owns(id_) is (older if moment < SINCE else passes(cell.check_user, user_id))


@pytest.mark.parametrize("since", [datetime(56, 5, 2, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_any_time_may_be_the_one_since_when_ids_contain_a_slot(since: datetime) -> None:
    ownership = Ownership.of(["0-4095"], since)
    assert ownership.is_older(UUID(int=0)) == (since.year > 1970)
    assert ownership.is_older(ownership.since) is False


def test_a_refusal_names_the_slot_if_there_is_one() -> None:
    cell = Ownership.of(["0-9"], SINCE)
    with pytest.raises(Misdirected) as refused:
        cell.check_user("alice")
    assert refused.value.members == {"slot": 3143}
    with pytest.raises(Misdirected) as refused:
        cell.check_id(uuid7(SINCE, 4095))
    assert refused.value.members == {"slot": 4095}
    with pytest.raises(Misdirected) as refused:
        cell.check_id(uuid7(SINCE - timedelta(milliseconds=1), 5))
    assert refused.value.members == {}


def test_by_default_everything_belongs_to_this_cell() -> None:
    assert ONE_CELL.is_everything
    assert all(ONE_CELL.owns(id_) for id_ in (uuid7(), UUID(int=0), UUID(int=2**128 - 1)))
    assert not Ownership.of(["0-4095"], None).is_everything
    assert not Ownership.of(["0-4094", "older"], None).is_everything


def passes(check: Callable[[Any], None], what: Any) -> bool:
    try:
        check(what)
    except Misdirected:
        return False
    return True
