"""The conclusion of a take-over from Kafka's last number and the shard's row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.relay.domain.shards import Lease, Reconciliation, reconcile

COUNTS = st.integers(0, 5)


def lease(number: int, claimed: int = 0, *, declared: bool = True) -> Lease:
    """Return a shard's row at its take-over."""
    return Lease(shard=0, epoch=1, number=number, claimed=claimed, declared=declared, transactional_id=None)


def test_a_batch_whose_number_was_committed_is_published() -> None:
    assert reconcile(lease(7, claimed=3), 7) is Reconciliation.PUBLISHED


def test_shard_without_a_batch_continues_after_its_number() -> None:
    assert reconcile(lease(7), 7) is Reconciliation.PUBLISHED


def test_a_batch_whose_number_was_not_committed_is_claimed_again() -> None:
    assert reconcile(lease(7, claimed=3), 6) is Reconciliation.UNPUBLISHED


@pytest.mark.parametrize("committed", [0, 5, 8, 100, None])
def test_number_that_is_neither_next_nor_last_is_refused(committed: int | None) -> None:
    assert reconcile(lease(7, claimed=3), committed) is Reconciliation.REFUSED


def test_previous_number_is_refused_without_a_claimed_batch() -> None:
    assert reconcile(lease(7), 6) is Reconciliation.REFUSED


def test_shard_that_never_published_begins_on_an_empty_kafka() -> None:
    assert reconcile(lease(0, declared=False), None) is Reconciliation.NEW


def test_declared_shard_does_not_begin_again_without_bootstrap() -> None:
    assert reconcile(lease(0), None) is Reconciliation.REFUSED


def test_restored_database_is_refused_by_a_newer_kafka() -> None:
    assert reconcile(lease(0, declared=False), 4) is Reconciliation.REFUSED


@given(COUNTS, COUNTS, st.booleans(), st.none() | COUNTS)
def test_batch_is_repeated_only_if_kafka_has_the_previous_number(
    number: int, claimed: int, declared: bool, committed: int | None
) -> None:
    found = reconcile(lease(number, claimed, declared=declared), committed)
    if found is Reconciliation.UNPUBLISHED:
        assert committed == number - 1
        assert claimed
    if found is Reconciliation.NEW:
        assert not claimed
        assert committed is None
