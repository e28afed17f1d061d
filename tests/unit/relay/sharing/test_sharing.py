"""Shards that share a Kafka transaction are published exactly once and in order, with any fault at any time.

The test searches a model of the protocol exhaustively within small bounds. The model has two replicas and two shards. A
cycle of several shards in one statement is the history in which their own cycles follow each other directly. One fault
of any kind happens at any time. Replicas may also pause anywhere, requests arrive late, and stale replicas fence live
ones.
"""

import pytest

from tests.unit.relay.sharing.protocol import Rules
from tests.unit.relay.sharing.search import search
from tests.unit.relay.sharing.world import Step

TWICE = "is committed twice"
REFUSED = "is refused"
STUCK = "not everything can be published"

LEASE, OPEN, FENCE, READ, SETTLE = Step.LEASE, Step.OPEN, Step.FENCE, Step.READ, Step.SETTLE

BROKEN = {
    "the recorded id is not fenced": (Rules(take_over=(LEASE, OPEN, READ, SETTLE)), TWICE),
    "it is fenced before the lease is taken": (Rules(take_over=(FENCE, LEASE, OPEN, READ, SETTLE)), TWICE),
    "the number is read before the fence": (Rules(take_over=(LEASE, OPEN, READ, FENCE, SETTLE)), TWICE),
    "the number is read before the shard's producer is open": (
        Rules(take_over=(LEASE, READ, OPEN, FENCE, SETTLE)),
        TWICE,
    ),
    "the id is recorded only after the commit": (Rules(id_noted="after the commit"), TWICE),
    "a round goes out with a session from after its claim": (Rules(session_from_before_claim=False), TWICE),
    "the id is taken back while the batch is in the air": (Rules(id_kept_in_the_air=False), TWICE),
    "a transaction that is still unsettled is not heeded": (Rules(unsettled_heeded=False), REFUSED),
    "a publisher leaves its round before the outcome": (Rules(rounds_awaited=False), TWICE),
    "a replica alone does not reopen its failed group": (Rules(dead_group_reopened=False, replicas=1), STUCK),
}


def test_nothing_is_repeated_lost_reordered_or_stuck() -> None:
    found = search(Rules(), events=1, faults=1)
    assert not found.wrong, "\n".join(found.trace)
    assert found.states > 10_000  # else the model has stopped moving


def test_single_replica_always_makes_progress() -> None:
    found = search(Rules(replicas=1), events=1, faults=1)
    assert not found.wrong, "\n".join(found.trace)


@pytest.mark.parametrize(("rules", "wrong"), BROKEN.values(), ids=BROKEN)
def test_each_rule_is_needed(rules: Rules, wrong: str) -> None:
    assert wrong in search(rules, events=1, faults=1).wrong


def test_id_recorded_after_the_claim_but_before_sending_is_safe() -> None:
    found = search(Rules(id_noted="before sending"), events=1, faults=1)
    assert not found.wrong, "\n".join(found.trace)
