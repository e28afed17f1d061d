"""A merged list is in order, and of each cell it has the beginning of its list: nothing is left out in between."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from deploy.orderctl.merging import merged, moment

LISTS = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 20), max_size=6))


@given(LISTS, st.integers(1, 8), st.booleans())
def test_first_rows_of_cells_are_those_of_one_sorted_list(
    lists: Mapping[str, list[int]], limit: int, newest_first: bool
) -> None:
    given_ = {name: sorted(numbers, reverse=newest_first)[:limit] for name, numbers in lists.items()}
    rows = merged(
        "cell",
        {name: [{"n": number} for number in numbers] for name, numbers in given_.items()},
        key=lambda row: row["n"],
        newest_first=newest_first,
        limit=limit,
    )
    everything = sorted((number for numbers in lists.values() for number in numbers), reverse=newest_first)
    assert [row["n"] for row in rows] == everything[:limit]
    for name, numbers in given_.items():
        own = [row["n"] for row in rows if row["cell"] == name]
        assert own == numbers[: len(own)]


@given(st.dictionaries(st.sampled_from("abc"), st.permutations("ÄaBb")), st.integers(1, 9))
def test_list_that_a_database_sorts_in_another_way_has_no_gap(lists: Mapping[str, Sequence[str]], limit: int) -> None:
    rows = merged(
        "cell",
        {name: [{"id": id_} for id_ in ids] for name, ids in lists.items()},
        key=lambda row: row["id"],
        newest_first=False,
        limit=limit,
    )
    for name, ids in lists.items():
        own = [row["id"] for row in rows if row["cell"] == name]
        assert own == list(ids[: len(own)])


def test_times_with_and_without_a_fraction_have_an_order() -> None:
    assert moment("2026-01-05T09:30:00Z") < moment("2026-01-05T09:30:00.5Z") < moment("2026-01-05T09:30:01+00:00")
