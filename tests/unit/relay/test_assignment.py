"""The division of the shards among the replicas."""

from hypothesis import given
from hypothesis import strategies as st

from services.relay.domain.shards import Assignment, ShardHolder, assign

NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


def free(count: int) -> list[ShardHolder]:
    return [ShardHolder(shard, None) for shard in range(count)]


def test_a_replica_alone_takes_every_shard() -> None:
    assert sorted(assign("a", ["a"], free(4), []).take) == [0, 1, 2, 3]


def test_replica_that_is_not_live_releases_every_shard() -> None:
    assert assign("b", ["a"], free(4), [1, 2]) == Assignment([], [1, 2])


def test_replica_keeps_trying_when_none_is_live() -> None:
    assert len(assign("b", [], free(4), []).take) == 4


def test_a_shard_of_a_living_replica_is_not_taken() -> None:
    holders = [ShardHolder(0, "a"), ShardHolder(1, "a"), ShardHolder(2, "a"), ShardHolder(3, "a")]
    assert assign("b", ["a", "b"], holders, []).take == []


def test_replicas_that_start_together_try_different_shards_first() -> None:
    assert assign("a", ["a", "b"], free(4), []).take == [0, 1]
    assert assign("b", ["a", "b"], free(4), []).take == [2, 3]


def test_replica_releases_shards_when_another_joins() -> None:
    holders = [ShardHolder(shard, "a") for shard in range(4)]
    assert assign("a", ["a", "b"], holders, [0, 1, 2, 3]).give == [2, 3]


def test_shard_without_a_publisher_is_taken_again_by_its_holder() -> None:
    assert assign("a", ["a"], [ShardHolder(0, "a")], []).take == [0]


@given(NAMES, st.integers(1, 8))
def test_every_shard_ends_with_one_replica_and_no_replica_has_two_more_than_another(
    names: list[str], count: int
) -> None:
    owned: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(2):
        for name in names:
            holders = [
                ShardHolder(shard, next((owner for owner, shards in owned.items() if shard in shards), None))
                for shard in range(count)
            ]
            change = assign(name, names, holders, owned[name])
            owned[name] = [shard for shard in owned[name] + change.take if shard not in change.give]
    assert sorted(shard for shards in owned.values() for shard in shards) == list(range(count))
    sizes = [len(shards) for shards in owned.values()]
    assert max(sizes) - min(sizes) <= 1
