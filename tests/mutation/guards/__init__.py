"""The fixed set: guards whose comment says why they are there, each with the tests that fail without it.

A guard that changes is changed here too; tests/unit/test_guards.py says which one. A new guard with a comment gets an
entry in the file of its folder.
"""

from collections.abc import Sequence

from tests.mutation.guard import Guard
from tests.mutation.guards import relay, shard_publisher, shards

GUARDS: Sequence[Guard] = (*relay.GUARDS, *shard_publisher.GUARDS, *shards.GUARDS)
