"""A shard publishes in a group, except with a backlog, after failures, and without transactions."""

from services.relay.domain.batching import ALONE_SECONDS, BACKLOG_EVENTS, GroupingPolicy

NOW = 1000.0


def test_new_shard_wants_a_group() -> None:
    assert GroupingPolicy(transactions=True).wants_group(NOW)


def test_backlog_is_published_alone() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.published(BACKLOG_EVENTS)
    assert not policy.wants_group(NOW)
    policy.published(BACKLOG_EVENTS - 1)
    assert policy.wants_group(NOW)


def test_failed_group_makes_one_batch_alone() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.group_failed(NOW)
    assert not policy.wants_group(NOW)
    policy.published(0)
    assert policy.wants_group(NOW)


def test_slow_group_makes_one_batch_alone() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.group_slow()
    assert not policy.wants_group(NOW)
    policy.published(0)
    assert policy.wants_group(NOW)


def test_two_failed_groups_in_a_row_keep_a_shard_alone_for_a_while() -> None:
    policy = GroupingPolicy(transactions=True)
    for _ in range(2):
        policy.group_failed(NOW)
        policy.published(1)
    assert not policy.wants_group(NOW + ALONE_SECONDS - 0.1)
    assert policy.wants_group(NOW + ALONE_SECONDS)


def test_successful_group_resets_failed_groups() -> None:
    policy = GroupingPolicy(transactions=True)
    for _ in range(2):
        policy.group_failed(NOW)
        policy.published(1)
        policy.group_succeeded()
    assert policy.wants_group(NOW)


def test_shard_that_failed_alone_stays_alone_for_a_while() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.isolate(NOW)
    policy.published(1)
    assert not policy.wants_group(NOW + ALONE_SECONDS - 0.1)
    assert policy.wants_group(NOW + ALONE_SECONDS)


def test_without_transactions_every_batch_is_published_alone() -> None:
    assert not GroupingPolicy(transactions=False).wants_group(NOW)
