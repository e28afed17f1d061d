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
        "shard: a group's refusal is no failure",
        "def _failed",
        "progress = isinstance(error, GroupRefused)",
        "progress = False",
        "test_failures_in_a_row_make_a_shard_failing_unless_the_broker_answers[group]",
    ),
    _shard(
        "shard: parking is no failure",
        "def _failed",
        "progress = self._isolation.batch_refused(error)",
        "self._isolation.batch_refused(error)",
        "test_parking_events_one_by_one_does_not_make_the_shard_failing",
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
        "shard: topics are checked again after a Kafka failure",
        "def _failed",
        "self._broker.topics_seen = False",
        "pass",
        "test_topics_are_looked_for_again_after_what_may_have_changed_them[broker]",
        "test_topics_are_looked_for_again_after_what_may_have_changed_them[contradiction]",
    ),
    _shard(
        "shard: an event is to park until it is parked",
        "async def _reconcile(",
        "await self._park(connection, lease, *self._isolation.to_park[-1])\n            self._isolation.to_park.pop()",
        "await self._park(connection, lease, *self._isolation.to_park.pop())",
        "test_event_that_could_not_be_parked_is_parked_after_the_next_take_over",
    ),
    _shard(
        "shard: an event that another replica has parked is not logged again",
        "async def _park",
        "if parked:",
        "if True:",
        "test_event_that_no_longer_waits_is_not_reported_as_parked[0]",
    ),
    _shard(
        "shard: an idle one renews its lease",
        "async def _wait_for_work",
        "self._settings.lease_seconds / 3",
        "self._settings.lease_seconds",
        "test_idle_shard_renews_its_lease_in_time",
    ),
    _shard(
        "shard: the loss of an unused connection is noticed",
        "async def _publish",
        "if connection.is_closed():",
        "if False:",
        "test_shard_whose_connection_was_closed_is_taken_over_again",
    ),
    _shard(
        "shard: a topic that was created again is noticed",
        "async def _publish",
        "view.check(made_again)",
        "pass",
        "test_shard_is_taken_over_again_after_a_topic_was_created_again",
    ),
    _shard(
        "shard: after a group's failure alone",
        "async def _together",
        "self._grouping_policy.group_failed(asyncio.get_running_loop().time())",
        "pass",
        "test_shard_goes_alone_after_its_group_failed_or_was_slow[failed]",
    ),
    _shard(
        "shard: after a group's slow claim alone",
        "async def _together",
        "self._grouping_policy.group_slow()",
        "pass",
        "test_shard_goes_alone_after_its_group_failed_or_was_slow[slow]",
    ),
    _shard(
        "shard: a connection whose statement was cut off is not used again",
        "# Perhaps only this replica",
        "if not connection.is_closed():",
        "if True:",
        "test_shard_that_failed_is_left_to_other_replicas_if_its_connection_is_open[closed]",
    ),
    _shard(
        "shard: after a failure another replica may take it",
        "# Perhaps only this replica",
        "await store.release_lease(connection, lease)",
        "pass",
        "test_shard_that_failed_is_left_to_other_replicas_if_its_connection_is_open[open]",
    ),
    _failures(
        "shard: a batch resets its failures",
        "def succeeded",
        "self.in_a_row = 0",
        "pass",
        "test_successful_batch_ends_the_failing_state",
    ),
    _failures(
        "shard: a refusal is logged once",
        "def failed",
        "if not self.refused:",
        "if True:",
        "test_refusal_for_operators_is_logged_once_and_reported_until_it_ends",
    ),
    _failures(
        "shard: a refusal that is over is",
        "def accepted",
        "self.refused = False",
        "pass",
        "test_refusal_for_operators_is_logged_once_and_reported_until_it_ends",
    ),
    _failures(
        "shard: pauses have a bound",
        "def pause_seconds",
        "min(BACKOFF_MAX_SECONDS, ",
        "max(0.0, ",
        "test_pause_grows_with_failures_and_has_a_bound",
    ),
)
