"""Treats states as equal that differ only in the names of shards or replicas."""

from functools import cache

from tests.unit.relay.sharing.world import (
    NO_ID,
    NOBODY,
    REPLICAS,
    Batch,
    Row,
    ShardPublisher,
    State,
    Transaction,
    group_id,
)

_OTHER_GROUP = {group_id(replica): group_id(1 - replica) for replica in REPLICAS}


def canonical(state: State, replicas: int) -> State:
    """Return the canonical state of all states that are equal to this one except for names."""
    likes = [state, _shards_swapped(state)]
    if replicas == len(REPLICAS):
        likes += [_replicas_swapped(like) for like in likes]
    return min(likes)


def _shards_swapped(state: State) -> State:
    first, second, third, fourth = state.publishers
    alone, other_alone, *together = state.transactions
    return state._replace(
        rows=state.rows[::-1],
        committed=state.committed[::-1],
        publishers=(second, first, fourth, third),
        transactions=tuple(_of_other_shards(transaction) for transaction in (other_alone, alone, *together)),
    )


def _replicas_swapped(state: State) -> State:
    first, second, third, fourth = state.publishers
    alone, other_alone, group, other_group, *former = state.transactions
    transactions = (alone, other_alone, other_group, group, *former)
    return state._replace(
        rows=tuple(_with_other_group(row) for row in state.rows),
        publishers=tuple(_fencing_other_group(publisher) for publisher in (third, fourth, first, second)),
        group_alive=state.group_alive[::-1],
        transactions=tuple(_of_other_replica(transaction) for transaction in transactions),
    )


@cache
def _of_other_shards(transaction: Transaction) -> Transaction:
    written, late = (
        tuple(sorted(Batch(1 - shard, number) for shard, number in batches))
        for batches in (transaction.written, transaction.late)
    )
    return transaction._replace(written=written, late=late)


@cache
def _of_other_replica(transaction: Transaction) -> Transaction:
    session = transaction.session
    return transaction._replace(session=NOBODY if session == NOBODY else 1 - session)


@cache
def _with_other_group(row: Row) -> Row:
    return row._replace(transactional_id=_OTHER_GROUP.get(row.transactional_id, row.transactional_id))


@cache
def _fencing_other_group(publisher: ShardPublisher) -> ShardPublisher:
    return (
        publisher
        if publisher.to_fence == NO_ID
        else publisher._replace(to_fence=_OTHER_GROUP.get(publisher.to_fence, publisher.to_fence))
    )
