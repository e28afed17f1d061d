"""The page of the outbox lists what waits in each shard."""

from types import SimpleNamespace
from typing import Any

from deploy.console.figures.exposition import Key
from deploy.console.figures.readings import Look, Reading
from deploy.console.figures.replicas import Replica
from deploy.console.pages.outbox import WAITING, shards


def test_shards_are_in_the_order_of_their_numbers() -> None:
    samples = {Key(name, (("shard", str(shard)),)): float(shard) for name in WAITING for shard in range(16)}
    readings = {Replica("relay", "http://relay"): Reading(None, Look(1.0, samples))}
    visit: Any = SimpleNamespace(parts=SimpleNamespace(sampler=SimpleNamespace(readings=readings)))
    assert shards(visit) == [(str(shard), [float(shard)] * 3) for shard in range(16)]
