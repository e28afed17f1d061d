"""Guards of a shard's publisher and its failures."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_TESTS = "tests/unit/relay/test_shard_publisher.py::"
_shard = guards_in("services/relay/publishing/shard_publisher.py", _TESTS)
_failures = guards_in("services/relay/publishing/failures.py", _TESTS)

GUARDS: Sequence[Guard] = (
    _shard(
        "shard: a replica paused past its lease publishes nothing",
        "async def _send",
        "if asyncio.get_running_loop().time() > deadline:",
        "if False:",
        "test_replica_paused_past_its_lease_publishes_nothing",
    ),
    _shard(
        "shard: a group's refusal is no trouble",
        "def _failed",
        "progress = isinstance(error, GroupRefused)",
        "progress = False",
        "test_failures_in_a_row_are_trouble_unless_the_broker_answers[group]",
    ),
    _shard(
        "shard: parking is no trouble",
        "def _failed",
        "progress = self._isolation.batch_refused(error)",
        "self._isolation.batch_refused(error)",
        "test_parking_one_event_after_the_other_is_no_trouble",
    ),
    _shard(
        "shard: after a refusal alone for a while",
        "def _failed",
        "self._grouping_policy.isolate(asyncio.get_running_loop().time())",
        "pass",
        "test_refused_shard_goes_alone_for_a_while",
    ),
    _shard(
        "shard: after a slow claim alone for a while",
        "async def _cycle",
        "if clock() - began > SLOW_SECONDS:",
        "if False:",
        "test_slow_claim_makes_the_shard_go_alone",
    ),
    _shard(
        "shard: topics are looked for again after trouble with Kafka",
        "def _failed",
        "self._broker.forget_topics()",
        "pass",
        "test_topics_are_looked_for_again_after_what_may_have_changed_them[broker]",
        "test_topics_are_looked_for_again_after_what_may_have_changed_them[contradiction]",
    ),
    _shard(
        "shard: an event is to park until it is parked",
        "async def _settle",
        "await self._park(connection, lease, *self._isolation.to_park[-1])\n            self._isolation.to_park.pop()",
        "await self._park(connection, lease, *self._isolation.to_park.pop())",
        "test_event_that_could_not_be_parked_is_parked_after_the_next_take_over",
    ),
    _shard(
        "shard: what another replica has parked is not told again",
        "async def _park",
        "if parked:",
        "if True:",
        "test_event_that_waits_no_more_is_not_told_as_parked[0]",
    ),
    _shard(
        "shard: an idle one renews its lease",
        "async def _rest",
        "self._settings.lease_seconds / 3",
        "self._settings.lease_seconds",
        "test_idle_shard_renews_its_lease_in_time",
    ),
    _failures(
        "shard: a batch ends its trouble",
        "def succeeded",
        "self.in_a_row = 0",
        "pass",
        "test_batch_that_succeeds_ends_the_trouble",
    ),
    _failures(
        "shard: a refusal is told once",
        "def failed",
        "if not self.refused:",
        "if True:",
        "test_refusal_for_operators_is_told_once_and_until_it_is_over",
    ),
    _failures(
        "shard: a refusal that is over is",
        "def accepted",
        "self.refused = False",
        "pass",
        "test_refusal_for_operators_is_told_once_and_until_it_is_over",
    ),
    _failures(
        "shard: pauses have a bound",
        "def pause_seconds",
        "min(BACKOFF_MAX_SECONDS, ",
        "max(0.0, ",
        "test_pause_grows_with_failures_and_has_a_bound",
    ),
)
