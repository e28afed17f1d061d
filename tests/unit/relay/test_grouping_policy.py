"""When a shard goes out with others: whenever neither a backlog nor trouble speaks against it."""

from services.relay.domain.batching import ALONE_SECONDS, BACKLOG_EVENTS, GroupingPolicy

NOW = 1000.0


def test_a_shard_goes_with_others_from_the_start() -> None:
    assert GroupingPolicy(transactions=True).wants_group(NOW)


def test_a_backlog_goes_alone_until_it_is_out() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.published(BACKLOG_EVENTS)
    assert not policy.wants_group(NOW)
    policy.published(BACKLOG_EVENTS - 1)
    assert policy.wants_group(NOW)


def test_after_trouble_in_company_one_batch_goes_alone() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.group_failed(NOW)
    assert not policy.wants_group(NOW)
    policy.published(0)
    assert policy.wants_group(NOW)


def test_after_a_slow_claim_in_company_one_batch_goes_alone() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.group_slow()
    assert not policy.wants_group(NOW)
    policy.published(0)
    assert policy.wants_group(NOW)


def test_after_trouble_in_company_twice_running_a_shard_goes_alone_for_a_while() -> None:
    policy = GroupingPolicy(transactions=True)
    for _ in range(2):
        policy.group_failed(NOW)
        policy.published(1)
    assert not policy.wants_group(NOW + ALONE_SECONDS - 0.1)
    assert policy.wants_group(NOW + ALONE_SECONDS)


def test_trouble_in_company_is_forgotten_once_something_got_through_there() -> None:
    policy = GroupingPolicy(transactions=True)
    for _ in range(2):
        policy.group_failed(NOW)
        policy.published(1)
        policy.group_succeeded()
    assert policy.wants_group(NOW)


def test_trouble_of_its_own_keeps_a_shard_alone_for_a_while_whatever_goes_out_meanwhile() -> None:
    policy = GroupingPolicy(transactions=True)
    policy.isolate(NOW)
    policy.published(1)
    assert not policy.wants_group(NOW + ALONE_SECONDS - 0.1)
    assert policy.wants_group(NOW + ALONE_SECONDS)


def test_without_transactions_every_batch_is_published_alone() -> None:
    assert not GroupingPolicy(transactions=False).wants_group(NOW)
