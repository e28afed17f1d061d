"""When a shard goes out with others: whenever neither a backlog nor trouble speaks against it."""

from services.relay.company import ALONE_SECONDS, Company
from services.relay.gathering import BACKLOG_EVENTS

NOW = 1000.0


def test_a_shard_goes_with_others_from_the_start() -> None:
    assert Company().wanted(NOW)


def test_a_backlog_goes_alone_until_it_is_out() -> None:
    company = Company()
    company.went(BACKLOG_EVENTS)
    assert not company.wanted(NOW)
    company.went(BACKLOG_EVENTS - 1)
    assert company.wanted(NOW)


def test_after_trouble_in_company_one_batch_goes_alone() -> None:
    company = Company()
    company.disturbed(NOW)
    assert not company.wanted(NOW)
    company.went(0)
    assert company.wanted(NOW)


def test_after_a_slow_claim_in_company_one_batch_goes_alone() -> None:
    company = Company()
    company.slow()
    assert not company.wanted(NOW)
    company.went(0)
    assert company.wanted(NOW)


def test_after_trouble_in_company_twice_running_a_shard_goes_alone_for_a_while() -> None:
    company = Company()
    for _ in range(2):
        company.disturbed(NOW)
        company.went(1)
    assert not company.wanted(NOW + ALONE_SECONDS - 0.1)
    assert company.wanted(NOW + ALONE_SECONDS)


def test_trouble_in_company_is_forgotten_once_something_got_through_there() -> None:
    company = Company()
    for _ in range(2):
        company.disturbed(NOW)
        company.went(1)
        company.got_through()
    assert company.wanted(NOW)


def test_trouble_of_its_own_keeps_a_shard_alone_for_a_while_whatever_goes_out_meanwhile() -> None:
    company = Company()
    company.troubled(NOW)
    company.went(1)
    assert not company.wanted(NOW + ALONE_SECONDS - 0.1)
    assert company.wanted(NOW + ALONE_SECONDS)
